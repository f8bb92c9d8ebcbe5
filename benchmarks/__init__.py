"""Scripts that measure, and print the tables of docs/results.md."""
