"""Poolings: many feature vectors under a region become one."""
