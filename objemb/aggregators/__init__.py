"""Aggregators: the regions of an image to rows of an index."""
