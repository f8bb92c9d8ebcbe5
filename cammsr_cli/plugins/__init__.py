"""Encoder plugins: discovery, description, checks, and a template for new ones."""
