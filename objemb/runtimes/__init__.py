"""Exported models: what their folders hold, and the programs that run their graphs."""
