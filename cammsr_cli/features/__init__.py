"""Runs encoders over a catalogue: finds them, caches their work, merges it."""
