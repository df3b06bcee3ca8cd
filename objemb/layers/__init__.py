"""Modules with state of their own: what is learned or fitted, and how networks run."""
