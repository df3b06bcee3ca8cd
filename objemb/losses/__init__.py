"""Losses of vectors: functions, and ranking losses as plug-ins in ``ranking``."""
