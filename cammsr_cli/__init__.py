"""cammsr: recommends the next item from what items say, look like and show."""

__version__ = "0.1.0"
