"""Ranking losses, with which items of one identity become more similar than items of others."""
