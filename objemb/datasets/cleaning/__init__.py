"""Cleaning of collected photos: which photos of a class show the same thing, proven by local features.

After Gordo et al., "Deep image retrieval: learning global representations for image search", ECCV 2016, section 3.3.
"""

from __future__ import annotations

from objemb.datasets.cleaning.run import GlobalDescriptor, clean
from objemb.datasets.cleaning.settings import CleaningSettings

__all__ = ["CleaningSettings", "GlobalDescriptor", "clean"]
