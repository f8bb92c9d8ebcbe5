"""The run folder: the output of a training, and loading its model."""
