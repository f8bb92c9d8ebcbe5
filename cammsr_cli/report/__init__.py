"""What people look at: one HTML file that says how good a run is and what it recommends to whom."""
