"""Detectors: networks, or files of stored boxes, that say where objects are."""
