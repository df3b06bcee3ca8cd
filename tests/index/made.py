"""Small descriptors and indexes for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from objemb.index.storage.files import FileRecord, Folder, write_file
from objemb.index.storage.manifest import Manifest, write_manifest
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions, Scalar

DIM = 8
CLASSES = ("bottle", "can", "jar")


def described(
    image: str, seed: int = 0, count: int = 3, dim: int = DIM, labels: list[int] | None = None, **metadata: Scalar
) -> RegionDescriptors:
    """``count`` regions with random unit vectors; region 0 is the whole image."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2), dtype=np.float32) * np.array([640, 480], dtype=np.float32), axis=1)
    boxes = torch.from_numpy(corners.reshape(count, 4))
    boxes[:1] = torch.tensor([0.0, 0.0, 640.0, 480.0])
    regions = Regions(
        boxes,
        (480, 640),
        torch.from_numpy(rng.random(count, dtype=np.float32)),
        torch.tensor(labels if labels is not None else [n % 4 - 1 for n in range(count)], dtype=torch.int64),
        CLASSES,
    )
    vectors = torch.from_numpy(rng.standard_normal((count, dim)).astype(np.float32))
    return RegionDescriptors(image, regions, torch.nn.functional.normalize(vectors, dim=1), metadata)


def vectors(image: str, rows: list[list[float]], **metadata: Scalar) -> RegionDescriptors:
    """Given vectors; region n has the box (10 n, 0, 10 n + 10, 10) and the label n."""
    boxes = torch.tensor([[10.0 * n, 0.0, 10.0 * n + 10, 10.0] for n in range(len(rows))]).reshape(-1, 4)
    regions = Regions(boxes, (100, 100), labels=torch.arange(len(rows)))
    return RegionDescriptors(image, regions, torch.tensor(rows, dtype=torch.float32).reshape(len(rows), -1), metadata)


def new(folder: Path, *images: RegionDescriptors, dim: int = DIM, dtype: str = "float32") -> Index:
    """An index with these images."""
    index = Index.create(folder, schema=UnitVectors(dim, dtype), fingerprint="model-a")
    with index.writer() as writer:
        for image in images:
            writer.add(image)
    return index


def store_file(folder: Path, name: str, data: Any) -> FileRecord:
    """A file of an index, written by hand."""
    with Folder(folder) as opened:
        return write_file(opened, name, data)


def publish(folder: Path, manifest: Manifest) -> None:
    """A state of an index, published by hand: forged, or as no writer would."""
    with Folder(folder) as opened:
        write_manifest(opened, manifest)


def same(found: RegionDescriptors | None, expected: RegionDescriptors) -> bool:
    """Whether everything that an index stores is equal."""
    return (
        found is not None
        and found.image == expected.image
        and dict(found.metadata) == dict(expected.metadata)
        and found.regions.size == expected.regions.size
        and found.regions.label_names == expected.regions.label_names
        and torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(expected.regions.boxes))
        and torch.equal(torch.as_tensor(found.regions.scores), torch.as_tensor(expected.regions.scores))
        and torch.equal(torch.as_tensor(found.vectors), torch.as_tensor(expected.vectors))
    )
