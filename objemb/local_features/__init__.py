"""Local features: points of a photo with a vector each."""
