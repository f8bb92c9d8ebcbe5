"""Encoders as plugins: found, described, checked, begun from a template."""
