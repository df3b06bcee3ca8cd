"""Boxes of an image with a vector each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from objemb import checks
from objemb.structures.fields import (
    Scalar,
    checked_id,
    expect_keys,
    frozen_metadata,
    metadata_to_json,
    payload_from_json,
    payload_to_json,
    row_numbers,
)
from objemb.structures.regions import Regions


@dataclass(frozen=True, eq=False)
class RegionDescriptors:
    """The regions of one image with a vector each: what every describer returns and every index takes.

    Attributes:
        image: The id of the image.
        regions: Where the vectors come from; region 0 is the whole image when a describer made them.
        vectors: float32 ``(N, D)``, unit length unless the describer says otherwise (zero rows stay zero).
        metadata: Columns that came with the image.
    """

    image: str
    regions: Regions
    vectors: Tensor
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_id("RegionDescriptors.image", self.image)
        checks.shape("RegionDescriptors.vectors", self.vectors, (len(self.regions), None))
        checks.finite("RegionDescriptors.vectors", self.vectors)
        object.__setattr__(self, "vectors", self.vectors.float())
        object.__setattr__(self, "metadata", frozen_metadata("RegionDescriptors.metadata", self.metadata))

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> RegionDescriptors:
        """Descriptors of some regions, picked as :class:`Regions` are."""
        rows = row_numbers(index, len(self), self.vectors.device)
        return replace(self, regions=self.regions[rows], vectors=self.vectors[rows])

    def __iter__(self) -> Iterator[RegionDescriptors]:
        return (self[i] for i in range(len(self)))

    @property
    def dim(self) -> int:
        """Length D of the vectors."""
        return int(self.vectors.shape[1])

    def to(self, device: torch.device | str) -> RegionDescriptors:
        """The same descriptors with all tensors on ``device``."""
        return replace(self, regions=self.regions.to(device), vectors=self.vectors.to(device))

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        return {
            "image": self.image,
            "regions": self.regions.to_json(),
            "vectors": payload_to_json(self.vectors),
            "metadata": metadata_to_json(self.metadata),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RegionDescriptors:
        """Descriptors from what :meth:`to_json` made."""
        expect_keys("RegionDescriptors", data, ("image", "regions", "vectors", "metadata"))
        vectors = payload_from_json(data["vectors"])
        if not isinstance(vectors, Tensor):
            raise ValueError("RegionDescriptors.vectors: expected a tensor, found scalars")
        return RegionDescriptors(data["image"], Regions.from_json(data["regions"]), vectors, data["metadata"])
