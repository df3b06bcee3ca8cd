"""Embedding heads, which give a detector a vector for each box."""
