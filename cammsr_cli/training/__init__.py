"""Batches, the loop, checkpoints."""
