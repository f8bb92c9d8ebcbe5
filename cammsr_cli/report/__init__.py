"""HTML reports: one file that shows the quality of a run and its recommendations for users."""
