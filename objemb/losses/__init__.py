"""Losses: pure functions of vectors, for training."""
