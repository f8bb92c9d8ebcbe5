"""Runs encoders over a catalogue: inputs, decoding, devices, cached vectors."""
