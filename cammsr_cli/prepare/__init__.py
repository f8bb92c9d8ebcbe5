"""Turns raw files into a data set, in one process or in parts by many processes."""
