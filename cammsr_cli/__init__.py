"""cammsr: recommends the next item from the texts, images and videos of items."""

__version__ = "0.1.0"
