"""Detectors: networks or files of stored boxes."""
