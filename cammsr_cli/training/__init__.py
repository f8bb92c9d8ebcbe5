"""Training: batches, the training loop, checkpoints."""
