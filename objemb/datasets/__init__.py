"""Data for training and evaluation: generated scenes, composed photos, evaluation sets and benchmarks."""
