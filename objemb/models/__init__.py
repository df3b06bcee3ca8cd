"""Models: build one from a config, save it as a folder, open it, describe with it.

Each name below loads its module, and with most of them PyTorch, when it is first used: exported models run without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.models.base import EmbeddingModel
    from objemb.models.build import build_model, load_model, save_model
    from objemb.models.fitting import fit_learned_whitening, fit_parts, fit_whitening
    from objemb.models.model import Model
    from objemb.models.opening import open_model

__all__ = [
    "EmbeddingModel",
    "Model",
    "build_model",
    "fit_learned_whitening",
    "fit_parts",
    "fit_whitening",
    "load_model",
    "open_model",
    "save_model",
]

_HOMES = {
    "EmbeddingModel": "base",
    "Model": "model",
    "build_model": "build",
    "fit_learned_whitening": "fitting",
    "fit_parts": "fitting",
    "fit_whitening": "fitting",
    "load_model": "build",
    "open_model": "opening",
    "save_model": "build",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
