"""objemb finds the object, not the picture: instance search with detector-based object embeddings.

.. code-block:: python

    import objemb

    index = objemb.open("my_index")  # with the model that made it
    for hit in index.search("photo.jpg", boxes=[(40, 60, 180, 220)]):
        print(hit.image, hit.score, hit.box, hit.query_box)

Importing the package is cheap: each name below loads its module, and PyTorch with it, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from objemb.version import __version__

if TYPE_CHECKING:
    from objemb.images.inputs import View
    from objemb.index.storage.unit_vectors import UnitVectors
    from objemb.index.store import Index
    from objemb.models import EmbeddingModel, Model
    from objemb.models import open_model as load
    from objemb.search.opening import open_retrieval as open
    from objemb.search.retrieval import Retrieval
    from objemb.structures import Match, Photo, RegionDescriptors, Regions, SearchResult

__all__ = [
    "EmbeddingModel",
    "Index",
    "Match",
    "Model",
    "Photo",
    "RegionDescriptors",
    "Regions",
    "Retrieval",
    "SearchResult",
    "UnitVectors",
    "View",
    "__version__",
    "load",
    "open",
]

_HOMES = {
    "EmbeddingModel": ("objemb.models.base", "EmbeddingModel"),
    "Index": ("objemb.index.store", "Index"),
    "Match": ("objemb.structures", "Match"),
    "Model": ("objemb.models.model", "Model"),
    "Photo": ("objemb.structures", "Photo"),
    "RegionDescriptors": ("objemb.structures", "RegionDescriptors"),
    "Regions": ("objemb.structures", "Regions"),
    "Retrieval": ("objemb.search.retrieval", "Retrieval"),
    "SearchResult": ("objemb.structures", "SearchResult"),
    "UnitVectors": ("objemb.index.storage.unit_vectors", "UnitVectors"),
    "View": ("objemb.images.inputs", "View"),
    "load": ("objemb.models.opening", "open_model"),
    "open": ("objemb.search.opening", "open_retrieval"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'objemb' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "torchvision"):
            raise ImportError(f"objemb.{name} needs PyTorch: pip install 'objemb[torch]'") from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
