"""Region sources, which choose the regions of a photo to describe."""
