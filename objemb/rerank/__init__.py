"""Re-rankers, which improve the order of search results. Matched boxes are kept."""
