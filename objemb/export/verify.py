"""Whether an exported model gives what PyTorch gives, on photos of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import numpy as np
import torch
from PIL import Image

from objemb.images.sources import SkippedImage
from objemb.models.base import EmbeddingModel
from objemb.models.exported import ExportedModel
from objemb.models.model import Model
from objemb.ops.boxes import iou
from objemb.ops.tensors import as_tensor
from objemb.runtimes.exported import BOXES, PART
from objemb.structures import Described, Photo, RegionDescriptors, Regions
from objemb.types import Float32Array

#: The photos of the small search are shown again at this share of their sides.
SHRUNK = 0.75
#: What a model was verified on.
GIVEN, SCENES = "given photos", "generated scenes"
#: Attributes of modules that are limits of suppression: of torchvision's networks, of Detectron2's, and of objemb.
LIMITS = ("nms_thresh", "test_nms_thresh", "nms_iou")


@dataclass(frozen=True)
class Tolerances:
    """What an exported model may differ by.

    Attributes:
        iou: Least overlap at which a box is the same box.
        score: Largest difference of the scores of a box. A box that is missing or too many is forgiven where its score
            is that near to the least one that counts.
        suppression: Such a box is forgiven as well where it is so in PyTorch once one of the overlaps from which on
            boxes are suppressed is this much lower or higher, since rounding decides then.
        cosine: Least cosine to PyTorch's vectors of the same boxes: for those that the graph found and the whole photo,
            and for those that PyTorch found and the graph ``boxes`` describes.
        map: Points of mAP that the small search may lose.
    """

    iou: float
    score: float
    suppression: float
    cosine: float
    map: float


#: By precision. What a model loses in 8-bit whole numbers is measured; only what is far off is refused.
TOLERANCES = {
    "fp32": Tolerances(iou=0.98, score=1e-3, suppression=1e-3, cosine=0.9999, map=0.5),
    "fp16": Tolerances(iou=0.9, score=0.02, suppression=0.01, cosine=0.999, map=0.5),
    "int8": Tolerances(iou=0.5, score=1.0, suppression=0.1, cosine=0.5, map=100.0),
}


@dataclass
class Verification:
    """What was found.

    Attributes:
        tolerances: That were applied.
        on: What the photos are: :data:`GIVEN` or :data:`SCENES`.
        photos: Number of photos.
        matched: Boxes that both have.
        unmatched: Boxes that one of them has.
        suppressed: Those of them that are forgiven because they are at a limit of suppression.
        cosine, score, iou: The worst of all photos.
        map_pytorch, map_exported: Mean average precision, 0 to 100, of a search for each photo, shrunk, among the
            regions of all photos; all by PyTorch, and all by the exported model.
        failures: What exceeds a tolerance, each with its photo.
    """

    tolerances: Tolerances
    on: str = GIVEN
    photos: int = 0
    matched: int = 0
    unmatched: int = 0
    suppressed: int = 0
    cosine: float = 1.0
    score: float = 0.0
    iou: float = 1.0
    map_pytorch: float = 100.0
    map_exported: float = 100.0
    failures: list[str] = field(default_factory=list)

    def as_card(self) -> dict[str, object]:
        """JSON-ready."""
        return {**asdict(self), "map_lost": self.map_pytorch - self.map_exported}


def verify(
    model: Model,
    exported: ExportedModel,
    photos: Sequence[Photo],
    min_score: float,
    *,
    search: bool = True,
    on: str = GIVEN,
) -> Verification:
    """Compare what a model and its exported graphs give for some photos.

    Args:
        model: The model, with no more boxes per photo than the graphs give. It describes one photo after the other.
        exported: The model whose graphs are open. It describes photos of one size in batches, if it takes any.
        photos: The photos; where the graphs take one size alone, they are resized to it.
        min_score: Boxes with lower scores are left out by both.
        search: Whether to compare a small search as well.
        on: What the photos are, for the card.
    """
    size = exported.exported.size
    verification = Verification(TOLERANCES[exported.exported.precision], on)
    expected, found = _Rows(), _Rows()
    taken = [as_taken(photo, size) for photo in photos]
    for photo, decoded, theirs in zip(photos, taken, _in_batches(exported, taken), strict=True):
        ours = _rows(model, decoded)
        if exported.per_region:
            lone = _compare(
                verification, photo.id, ours.regions, theirs.regions, _least_score(exported, ours, min_score)
            )
            if lone:
                _judge(verification, photo.id, lone, _otherwise_suppressed(model, decoded, verification.tolerances))
            same_boxes = _vectors(model.query(decoded, theirs.regions.boxes))
            _compare_vectors(verification, photo.id, "objects", same_boxes, theirs.vectors)
        else:
            _compare_vectors(verification, photo.id, "the photo", ours.vectors, theirs.vectors)
        if exported.exported.in_context or size is None:
            boxes = ours.regions.boxes if exported.exported.in_context else _middle(decoded)
            crop = "context" if {BOXES, PART} & exported.sessions.keys() else "crop"
            again, of_graph = (one.query(decoded, boxes, crop=crop) for one in (model, exported))
            _compare_vectors(verification, photo.id, "given boxes", _vectors(again), _vectors(of_graph))
        verification.photos += 1
        if not search:
            continue
        shrunk = decoded if size is not None else _shrunk(decoded)
        expected.add(ours.vectors, _rows(model, shrunk).vectors[0])
        found.add(theirs.vectors, _rows(exported, shrunk).vectors[0])
    verification.map_pytorch, verification.map_exported = (
        expected.mean_average_precision(),
        found.mean_average_precision(),
    )
    lost = verification.map_pytorch - verification.map_exported
    if lost > verification.tolerances.map:
        verification.failures.append(
            f"all photos: expected a mAP of at least {verification.map_pytorch - verification.tolerances.map:.1f}, "
            f"found {verification.map_exported:.1f}"
        )
    return verification


def _rows(model: EmbeddingModel, photo: Photo) -> RegionDescriptors:
    """The rows of a photo for an index."""
    return cast(RegionDescriptors, model.describe(photo))  # of a model of vectors


def _in_batches(exported: ExportedModel, photos: Sequence[Photo]) -> list[RegionDescriptors]:
    """The rows of photos, in their order, from batches of photos of one size."""
    by_size = sorted(range(len(photos)), key=lambda number: photos[number].size)

    def refuse(skipped: SkippedImage) -> None:
        raise RuntimeError(f"{skipped.id}: {skipped.reason}")

    ordered = [photos[number] for number in by_size]
    described = exported.stream(ordered, batch_size=exported.exported.batch, on_skip=refuse)
    rows = dict(zip(by_size, described, strict=True))
    return [cast(RegionDescriptors, rows[number]) for number in range(len(photos))]


def _least_score(exported: ExportedModel, ours: RegionDescriptors, min_score: float) -> float:
    """The score at which boxes are left out: the least where there are as many as the graphs give."""
    full = 1 < len(ours) > exported.exported.max_detections
    return max(min_score, float(ours.regions.scores[1:].min())) if full else min_score


def _middle(photo: Photo) -> Float32Array:
    """A box of half the sides of a photo."""
    height, width = photo.size
    return np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], np.float32)


def _vectors(rows: Described) -> Float32Array:
    return np.asarray(cast(RegionDescriptors, rows).vectors)


@dataclass
class _Rows:
    """Regions of photos, and each photo once more as a query."""

    vectors: list[Float32Array] = field(default_factory=list)
    queries: list[Float32Array] = field(default_factory=list)

    def add(self, vectors: Float32Array, query: Float32Array) -> None:
        self.vectors.append(np.asarray(vectors))
        self.queries.append(np.asarray(query))

    def mean_average_precision(self) -> float:
        """0 to 100. A photo is as similar as its most similar region, and is right for the query that is the same
        photo: the average precision of a query is one by the rank of that photo."""
        if not self.queries:
            return 100.0
        queries = np.stack(self.queries)
        similar = np.stack([(queries @ vectors.T).max(axis=1) for vectors in self.vectors], axis=1)
        ranks = 1 + (similar > np.diag(similar)[:, None]).sum(axis=1)
        return float(100 * (1 / ranks).mean())


@dataclass(frozen=True)
class _Lone:
    """A box that one of both has: row 0 of ``region``."""

    region: Regions
    of_pytorch: bool


def _compare(verification: Verification, id: str, ours: Regions, theirs: Regions, min_score: float) -> list[_Lone]:
    """Boxes, matched by overlap and not by order, since equal scores have none, and their scores.

    Returns:
        Boxes that one of both has and whose score does not excuse it.
    """
    tolerances = verification.tolerances
    overlaps = _overlaps(ours[1:], theirs[1:])
    pairs = [(0, 0)]
    while overlaps.numel() and float(overlaps.max()) >= tolerances.iou:
        row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
        verification.iou = min(verification.iou, float(overlaps[row, column]))
        overlaps[row], overlaps[:, column] = -1.0, -1.0
        pairs.append((row + 1, column + 1))
    verification.matched += len(pairs) - 1
    rows, columns = (list(side) for side in zip(*pairs, strict=True))
    difference = float(np.abs(ours.scores[rows[1:]] - theirs.scores[columns[1:]]).max(initial=0.0))
    verification.score = max(verification.score, difference)
    if difference > tolerances.score:
        verification.failures.append(f"{id}: expected scores within {tolerances.score:g}, found {difference:.4f}")
    lone = []
    for regions, known in ((ours, rows), (theirs, columns)):
        for row in sorted(set(range(1, len(regions))) - set(known)):
            verification.unmatched += 1
            if float(regions.scores[row]) - min_score > tolerances.score:
                lone.append(_Lone(regions[row : row + 1], regions is ours))
    return lone


def _overlaps(rows: Regions, columns: Regions) -> torch.Tensor:
    """The overlap of each pair of boxes, -1 where their labels differ."""
    same = as_tensor(rows.labels)[:, None] == as_tensor(columns.labels)[None]
    return torch.where(same, iou(as_tensor(rows.boxes), as_tensor(columns.boxes)), -1.0)


def _otherwise_suppressed(model: Model, photo: Photo, tolerances: Tolerances) -> list[Regions]:
    """The boxes of PyTorch with each limit of suppression lower, and higher."""
    found = []
    for part in model.describer.modules():
        for name in LIMITS:
            if not isinstance(limit := getattr(part, name, None), float):
                continue
            try:
                for shift in (-tolerances.suppression, tolerances.suppression):
                    setattr(part, name, min(max(limit + shift, 0.0), 1.0))
                    found.append(_rows(model, photo).regions)
            finally:
                setattr(part, name, limit)
    return found


def _judge(verification: Verification, id: str, lone: Sequence[_Lone], otherwise: Sequence[Regions]) -> None:
    """Forgive the boxes that PyTorch has or lacks by a hair: one that it lacks has to be there with another limit of
    suppression, with its score, and one that it has must be gone."""
    for one in lone:
        there = [_is_among(one.region, found, verification.tolerances) for found in otherwise]
        if any(present != one.of_pytorch for present in there):
            verification.suppressed += 1
            continue
        whose = "PyTorch" if one.of_pytorch else "the exported model"
        verification.failures.append(f"{id}: expected the same boxes, found one of {whose} alone, {_shown(one.region)}")


def _is_among(region: Regions, others: Regions, tolerances: Tolerances) -> bool:
    """Whether a box is among others, with its label and score."""
    same = _overlaps(region, others)[0].numpy() >= tolerances.iou
    return bool((same & (np.abs(others.scores - region.scores) <= tolerances.score)).any())


def _compare_vectors(verification: Verification, id: str, what: str, ours: Float32Array, theirs: Float32Array) -> None:
    cosine = float((np.asarray(ours) * np.asarray(theirs)).sum(axis=1).min(initial=1.0))
    verification.cosine = min(verification.cosine, cosine)
    if not cosine >= verification.tolerances.cosine:
        verification.failures.append(
            f"{id}: expected vectors of {what} of cosine {verification.tolerances.cosine:g} or more, found {cosine:.6f}"
        )


def _shown(region: Regions) -> str:
    x1, y1, x2, y2 = (round(float(edge)) for edge in region.boxes[0])
    return f"({x1}, {y1}, {x2}, {y2}) with score {float(region.scores[0]):.3f}"


def as_taken(photo: Photo, size: tuple[int, int] | None) -> Photo:
    """The decoded pixels as a photo of their own: what the graphs see has no other size."""
    if size is not None and photo.pixels.shape[1:] != size:
        return _resized(photo, size)
    return replace(photo, size=(photo.pixels.shape[1], photo.pixels.shape[2]))


def _shrunk(photo: Photo) -> Photo:
    height, width = (max(1, round(SHRUNK * side)) for side in photo.size)
    return _resized(photo, (height, width))


def _resized(photo: Photo, size: tuple[int, int]) -> Photo:
    image = Image.fromarray(photo.interleaved()).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return replace(photo, pixels=np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), size=size)
