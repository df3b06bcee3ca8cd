"""Tasks: what is learned, from what, and what a run leaves."""
