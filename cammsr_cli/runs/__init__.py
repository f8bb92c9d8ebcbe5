"""The run folder: what a training leaves, and building its model from it."""
