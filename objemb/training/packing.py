"""Examples on their way from a process of the data loader to the one that learns.

Tensors between processes are files in shared memory, several a photo: many systems allow too few of them. Arrays are
plain bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objemb.structures import Photo, Regions
from objemb.training.data.base import Example

#: An example as arrays and plain values.
Packed = tuple[dict[str, Any], dict[str, Any]]


def pack(examples: Sequence[Example]) -> list[Packed]:
    """Examples without tensors; the tensors' memory is shared, not copied."""
    return [(_packed_photo(e.photo), _packed_regions(e.regions)) for e in examples]


def unpack(packed: Sequence[Packed]) -> list[Example]:
    """What :func:`pack` was given."""
    return [Example(Photo(**_tensors(photo)), Regions(**_tensors(regions))) for photo, regions in packed]


def _packed_photo(photo: Photo) -> dict[str, Any]:
    return {
        "id": photo.id,
        "pixels": photo.pixels.numpy(),
        "size": photo.size,
        "metadata": dict(photo.metadata),
        "path": photo.path,
        "orientation": photo.orientation,
    }


def _packed_regions(regions: Regions) -> dict[str, Any]:
    return {
        "boxes": regions.boxes.numpy(),
        "size": regions.size,
        "scores": regions.scores.numpy(),
        "labels": regions.labels.numpy(),
        "classes": regions.classes,
        "extras": {k: v.numpy() if isinstance(v, Tensor) else v for k, v in regions.extras.items()},
    }


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return {k: _tensors(v) for k, v in value.items()} if isinstance(value, dict) else value
