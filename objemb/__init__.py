"""objemb finds the object, not the picture."""
