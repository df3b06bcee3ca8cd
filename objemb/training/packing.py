"""Examples on their way from a process of the data loader to the one that learns.

Tensors between processes are files in shared memory, several a photo: many systems allow too few of them. Arrays are
plain bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from objemb.structures import Photo, Regions
from objemb.training.data.base import Example

#: An example as arrays and plain values.
Packed = tuple[dict[str, Any], dict[str, Any]]


def pack(examples: Sequence[Example]) -> list[Packed]:
    """Examples without tensors; the tensors' memory is shared, not copied."""
    return [(_packed_photo(e.photo), _packed_regions(e.regions)) for e in examples]


def unpack(packed: Sequence[Packed]) -> list[Example]:
    """What :func:`pack` was given."""
    return [Example(Photo(**photo), Regions(**regions)) for photo, regions in packed]


def _packed_photo(photo: Photo) -> dict[str, Any]:
    return {
        "id": photo.id,
        "pixels": photo.pixels,
        "size": photo.size,
        "metadata": dict(photo.metadata),
        "path": photo.path,
        "orientation": photo.orientation,
    }


def _packed_regions(regions: Regions) -> dict[str, Any]:
    return {
        "boxes": regions.boxes,
        "size": regions.size,
        "scores": regions.scores,
        "labels": regions.labels,
        "classes": regions.classes,
        "extras": dict(regions.extras),
    }
