"""Search with a model: photos into an index, and from a photo and a box to an answer."""
