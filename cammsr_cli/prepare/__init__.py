"""From raw files to a data set, in one process or in parts of many."""
