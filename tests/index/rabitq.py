"""Whether FAISS is new enough for RaBitQ codes."""

from __future__ import annotations

import pytest

from objemb.index.engines.ivf_rabitq import OLDEST

try:
    import faiss

    VERSION = (faiss.FAISS_VERSION_MAJOR, faiss.FAISS_VERSION_MINOR)
except ImportError:
    VERSION = (0, 0)
#: Marks tests that build such codes.
NEEDS_RABITQ = pytest.mark.skipif(VERSION < OLDEST, reason="ivf_rabitq needs a newer FAISS")
