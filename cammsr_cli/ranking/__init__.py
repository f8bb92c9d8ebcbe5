"""Ranking: from scores to the top k items, metrics and explanations."""
