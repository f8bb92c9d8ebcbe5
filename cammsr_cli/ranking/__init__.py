"""Scores to top-k, metrics and explanations."""
