"""Re-ranking: results of a search in a better order. Results in, results out; matched boxes survive."""
