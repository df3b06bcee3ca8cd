"""Heads: what a detector gains to emit more than boxes."""
