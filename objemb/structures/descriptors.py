"""The regions of an image with their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from objemb import checks
from objemb.structures.fields import (
    Index,
    Scalar,
    as_array,
    checked_id,
    expect_keys,
    frozen_metadata,
    metadata_to_json,
    payload_from_json,
    payload_to_json,
    row_numbers,
)
from objemb.structures.regions import Regions
from objemb.types import Float32Array


@dataclass(frozen=True, eq=False, init=False)
class RegionDescriptors:
    """The regions of one image, each with a vector: the output of a describer and the input of an index.

    Attributes:
        image: The id of the image.
        regions: The N regions; if a describer found them, region 0 is the whole image.
        vectors: float32 ``(N, D)``, one per region, of unit length (or zero) unless the describer states otherwise. May
            be given as a tensor, which is moved to the CPU; a CPU tensor shares its memory.
        metadata: Metadata of the image from its source, by column.
    """

    image: str
    regions: Regions
    vectors: Float32Array
    metadata: Mapping[str, Scalar]

    def __init__(
        self, image: str, regions: Regions, vectors: ArrayLike, metadata: Mapping[str, Scalar] = MappingProxyType({})
    ) -> None:
        rows = as_array("RegionDescriptors.vectors", vectors)
        checks.finite(
            "RegionDescriptors.vectors", checks.shape("RegionDescriptors.vectors", rows, (len(regions), None))
        )
        self._set(
            checked_id("RegionDescriptors.image", image),
            regions,
            rows.astype(np.float32, copy=False),
            frozen_metadata("RegionDescriptors.metadata", metadata),
        )

    def _set(
        self, image: str, regions: Regions, vectors: Float32Array, metadata: Mapping[str, Scalar]
    ) -> RegionDescriptors:
        """Set fields that are already validated, here or as part of other descriptors."""
        values = {"image": image, "regions": regions, "vectors": vectors, "metadata": metadata}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        return self

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: Index) -> RegionDescriptors:
        """Descriptors of the regions that :meth:`Regions.__getitem__` would select."""
        rows = row_numbers(index, len(self))
        picked = object.__new__(RegionDescriptors)
        return picked._set(self.image, self.regions[rows], self.vectors[rows], self.metadata)

    def __iter__(self) -> Iterator[RegionDescriptors]:
        return (self[i] for i in range(len(self)))

    @property
    def dim(self) -> int:
        """Length D of the vectors."""
        return int(self.vectors.shape[1])

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict, read by :meth:`from_json`."""
        return {
            "image": self.image,
            "regions": self.regions.to_json(),
            "vectors": payload_to_json(self.vectors),
            "metadata": metadata_to_json(self.metadata),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RegionDescriptors:
        """Descriptors from the output of :meth:`to_json`."""
        expect_keys("RegionDescriptors", data, ("image", "regions", "vectors", "metadata"))
        vectors = payload_from_json(data["vectors"])
        if isinstance(vectors, tuple):
            raise ValueError("RegionDescriptors.vectors: expected an array, found scalars")
        return RegionDescriptors(data["image"], Regions.from_json(data["regions"]), vectors, data["metadata"])
