"""The version of the package, and nothing else, so that building it needs no import."""

__version__ = "0.1.0"
