"""Which runtime and precision of a model is fastest on this machine, and agrees with the default."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from objemb.card import read_card
from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.images.sources import ImageRef, find_images
from objemb.models.base import EmbeddingModel
from objemb.models.opening import open_model
from objemb.models.tuned import Choice
from objemb.runtimes.base import readers
from objemb.runtimes.exported import EXPORT, Exported
from objemb.structures import RegionDescriptors
from objemb.structures.described import expect_vectors
from objemb.types import Float32Array

log = logging.getLogger(__name__)

#: Photos that are measured, and rounds.
PHOTOS, ROUNDS = 12, 5
#: Precisions of a PyTorch model on a CPU; half precision is several times slower there.
OF_PYTORCH = ("fp32", "bf16")
#: A way that is faster by less than this is not worth a choice.
MIN_SPEED = 1.05
#: Least cosine of a vector with that of the default, by precision; of others, that of :data:`REDUCED`.
EXACT, REDUCED = 0.9999, 0.999
#: Least share of boxes that both find, and how far edges of such a box may differ, as a share of its longer side.
MIN_BOXES, MOVED = 0.95, 0.05


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Attributes:
        runtime: Of an exported model; None for PyTorch.
        precision: Precision of the networks.
    """

    runtime: str | None
    precision: str

    def __str__(self) -> str:
        return f"{self.runtime or 'PyTorch'} {self.precision}"


@dataclass(frozen=True)
class Measured:
    """What was measured of a way.

    Attributes:
        way: The way.
        speed: Photos per second as a multiple of those of the default, from photo files to vectors.
        cosine: Lowest cosine of a vector with that of the default.
        boxes: Share of boxes that both find; 1 for a model without a detector.
    """

    way: Way
    speed: Ratio
    cosine: float
    boxes: float

    @property
    def agrees(self) -> bool:
        """Whether it gives what the default gives, as far as its precision allows."""
        least = EXACT if self.way.precision == "fp32" else REDUCED
        return self.cosine >= least and self.boxes >= MIN_BOXES


def ways_of(folder: Path) -> list[Way]:
    """The ways in which a model can run on this machine, the default first.

    Args:
        folder: A model folder.

    Raises:
        ImportError: No runtime is installed that reads an exported model.
    """
    card = read_card(folder)
    if EXPORT not in card:
        return [Way(None, precision) for precision in OF_PYTORCH]
    exported = Exported.of_card(card, folder)
    reading = [runtime for runtime in readers(exported.format) if runtime.is_installed()]
    if not reading:
        raise ImportError(f"--tune: expected a runtime that reads {exported.format!r}, found none installed")
    if exported.precision != "fp32":
        return [Way(runtime.registry_name, exported.precision) for runtime in reading]
    ways = [Way(runtime.registry_name, precision) for runtime in reading for precision in runtime.precisions_here()]
    return sorted(ways, key=lambda way: way.precision != "fp32")


def measure(folder: Path, photos: Sequence[Path], threads: int | None = None) -> list[Measured]:
    """Measure all ways in turn, from photo files to vectors.

    Args:
        folder: A model folder, of a model of vectors.
        photos: Folders or files; the first ``PHOTOS`` photos are used.
        threads: Threads of the networks; None for as many as they take by themselves.

    Returns:
        The ways, the default first.

    Raises:
        ValueError: No photo can be described, or the model gives visual words.
    """
    refs = [ref for ref in islice(find_images(photos), PHOTOS) if isinstance(ref, ImageRef)]
    models: dict[Way, EmbeddingModel] = {}
    rows: dict[Way, list[RegionDescriptors]] = {}
    default, *others = ways_of(folder)
    for way in (default, *others):
        try:
            models[way] = open_model(folder, "cpu", way.precision, runtime=way.runtime, threads=threads)
            rows[way] = _rows(models[way], refs)
        except (ValueError, RuntimeError, ImportError) as error:  # a runtime may lack what a processor or a graph needs
            if way is default:
                raise
            log.warning("%s cannot run this model: %s", way, error)
            models.pop(way, None)
    if not rows[default]:
        raise ValueError("--tune: expected photos that can be described, found none")
    times = alternate({way: partial(_rows, model, refs) for way, model in models.items()}, ROUNDS)
    return [
        Measured(way, ratio(str(way), times[default], times[way]), *_agreement(rows[default], rows[way]))
        for way in models
    ]


def _rows(model: EmbeddingModel, refs: Sequence[ImageRef]) -> list[RegionDescriptors]:
    """What indexing does: the rows of photo files, decoded ahead of the network."""
    return [expect_vectors("--tune", described) for described in model.stream(refs)]


def _agreement(expected: Sequence[RegionDescriptors], found: Sequence[RegionDescriptors]) -> tuple[float, float]:
    """The lowest cosine of vectors of a whole photo or of a box that both have; and the share of boxes that both have.

    Args:
        expected: Rows of photos.
        found: Rows of the same photos by another way; all vectors are of unit length.
    """
    others = {rows.image: rows for rows in found}
    cosine, boxes, both = 1.0, 0, 0
    for rows in expected:
        other = others.get(rows.image)
        if other is None:
            return -1.0, 0.0
        pairs = [(0, 0), *_same_boxes(rows.regions.boxes[1:], other.regions.boxes[1:])]
        ours, theirs = (list(numbers) for numbers in zip(*pairs, strict=True))
        cosine = min(cosine, float((rows.vectors[ours] * other.vectors[theirs]).sum(axis=1).min()))
        boxes += max(len(rows), len(other)) - 1
        both += len(pairs) - 1
    return cosine, both / boxes if boxes else 1.0


def _same_boxes(expected: Float32Array, found: Float32Array) -> Iterator[tuple[int, int]]:
    """Rows of boxes in both arrays whose edges differ by little, each at most once; counted from 1."""
    if not len(expected) or not len(found):
        return
    sides = (expected[:, 2:] - expected[:, :2]).max(axis=1)
    moved = np.abs(expected[:, None] - found[None]).max(axis=2) / np.maximum(sides, 1e-6)[:, None]
    for row in range(len(expected)):
        column = int(moved[row].argmin())
        if moved[row, column] <= MOVED:
            moved[:, column] = np.inf
            yield row + 1, column + 1


def best(measured: Sequence[Measured]) -> Measured:
    """The fastest way that agrees with the default, which is the first, and is clearly faster; else the default."""
    default, *others = measured
    return max(
        (each for each in others if each.agrees and each.speed.value >= MIN_SPEED),
        key=lambda each: each.speed.value,
        default=default,
    )


def as_choice(measured: Measured) -> Choice:
    """What is recorded of a way."""
    way = measured.way
    return Choice(way.runtime, way.precision, measured.speed.value, measured.cosine, measured.boxes)
