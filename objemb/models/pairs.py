"""Pairs of photos, or of boxes in them, that show the same instance, from which a whitening is learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.images.sources import SkippedImage, find_images
from objemb.structures import Box

#: Maximum number of pairs per instance, so that the most photographed one does not dominate.
PAIRS_PER_INSTANCE = 100
SEED = 0


@dataclass(frozen=True)
class LabelledRegion:
    """A photo, or a box in it, with the name of the instance that it shows.

    Attributes:
        path: The photo.
        instance: Name of the instance; equal names mean the same one.
        box: Edges in original pixels, None for the whole photo.
    """

    path: Path
    instance: str
    box: Box | None = None


def read_labelled(source: str | Path) -> list[LabelledRegion]:
    """Photos and boxes that are labelled with their instance.

    Args:
        source: An evaluation set, a JSON file: its boxed objects or, if it has none, the photos that show a single
            instance; and its queries. Or a folder with a folder of photos per instance.

    Raises:
        FileNotFoundError: Neither is there.
        ValueError: No instance has two photos or boxes.
    """
    source = Path(source)
    labelled = list(_of_folder(source) if source.is_dir() else _of_set(read_evaluation_set(source)))
    if len(positive_pairs([one.instance for one in labelled])) == 0:
        raise ValueError(f"{source}: expected instances that are shown at least twice, found none")
    return labelled


def positive_pairs(instances: Sequence[str]) -> Tensor:
    """Rows of equal instances, int64 ``(P, 2)``.

    All pairs of an instance, or :data:`PAIRS_PER_INSTANCE` drawn among them with a fixed seed. Pairs say nothing about
    which of the two is the query: each comes once.
    """
    rows: dict[str, list[int]] = {}
    for row, instance in enumerate(instances):
        rows.setdefault(instance, []).append(row)
    generator = torch.Generator().manual_seed(SEED)
    parts = [torch.tensor(of_one)[_pairs(len(of_one), generator)] for of_one in rows.values() if len(of_one) > 1]
    return torch.cat([torch.zeros(0, 2, dtype=torch.int64), *parts])


def _pairs(count: int, generator: torch.Generator) -> Tensor:
    """Two different numbers below ``count``, int64 ``(P, 2)``."""
    if count * (count - 1) // 2 <= PAIRS_PER_INSTANCE:
        return torch.combinations(torch.arange(count))
    first = torch.randint(count, (PAIRS_PER_INSTANCE,), generator=generator)
    further = torch.randint(1, count, (PAIRS_PER_INSTANCE,), generator=generator)
    return torch.stack([first, (first + further) % count], dim=1)


def _of_folder(folder: Path) -> Iterator[LabelledRegion]:
    for image in find_images(folder):
        if not isinstance(image, SkippedImage) and "/" in image.id:
            yield LabelledRegion(image.path, image.id.partition("/")[0])


def _of_set(data: EvaluationSet) -> Iterator[LabelledRegion]:
    known = data.objects or [e for e in data.images if len(e.instances) == 1]
    for entry in chain(known, data.queries):
        for instance in entry.instances:
            yield LabelledRegion(data.photo(entry.file), instance, entry.box)
