"""Encoders: what turns an item's text, image or video into a vector."""
