"""Region sources: where to look."""
