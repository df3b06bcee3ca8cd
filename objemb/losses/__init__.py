"""Losses: pure functions of vectors."""
