"""Extractors of a box's features: from a crop, from a shared feature map, or from a pyramid of maps."""
