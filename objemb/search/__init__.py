"""Indexing photos with a model, and searching with a photo and boxes."""
