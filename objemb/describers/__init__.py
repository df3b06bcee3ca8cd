"""Describers: photos to regions with vectors or local features."""
