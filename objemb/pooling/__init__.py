"""Poolings: the feature vectors in a region to one vector."""
