"""Aggregators: the regions of an image become the rows of an index."""
