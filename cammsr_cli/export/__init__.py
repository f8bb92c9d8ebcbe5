"""Exports a trained run as files that a service reads without this package."""
