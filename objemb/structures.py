"""The few data types that travel between the stages.

All are frozen, check themselves on construction, and keep to one convention: boxes are float32 ``(x1, y1, x2, y2)``
edges in *EXIF-corrected original pixels* (a 640 x 480 photo spans ``0 <= x <= 640``), rows are items, sizes are
``(height, width)``, region 0 of a described image is the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from objemb import checks

Box: TypeAlias = tuple[float, float, float, float]
#: Values that metadata may hold; they survive JSON and Arrow unchanged.
Scalar: TypeAlias = str | int | float | bool | None
#: Extra values per region: a tensor with one row per region, or one JSON scalar per region.
Payload: TypeAlias = Tensor | tuple[Scalar, ...]

#: Label of a region that no detector named, such as the whole image.
NO_LABEL = -1
#: Boxes may leave the image by this many pixels (rounding of float32 arithmetic) and are clipped; more is an error.
BOX_TOLERANCE = 0.01
#: Tensor types that payloads may have in JSON.
PAYLOAD_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int32, torch.int64)
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image.

    Attributes:
        id: The name of the image in an index, usually its path.
        pixels: uint8 ``(3, h, w)``, RGB, EXIF-corrected; smaller than the original where the decoder scaled down.
            (Bytes, not floats: a photo waiting in the decoding queue is four times smaller; networks divide by 255.)
        size: ``(height, width)`` of the EXIF-corrected *original*: the frame of all boxes.
        metadata: Columns that came with the image from its source.
    """

    id: str
    pixels: Tensor
    size: tuple[int, int]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.shape("Photo.pixels", self.pixels, (3, None, None))
        if self.pixels.dtype != torch.uint8:
            raise TypeError(f"Photo.pixels: expected dtype torch.uint8, found {self.pixels.dtype}")
        if 0 in self.pixels.shape:
            raise ValueError(f"Photo.pixels: expected at least one pixel, found shape {tuple(self.pixels.shape)}")
        object.__setattr__(self, "size", _checked_size("Photo.size", self.size))
        object.__setattr__(self, "metadata", _frozen_metadata("Photo.metadata", self.metadata))

    @property
    def scale(self) -> tuple[float, float]:
        """``(y, x)`` factors from original pixels to decoded pixels; 1.0 where the decoder did not scale."""
        return self.pixels.shape[1] / self.size[0], self.pixels.shape[2] / self.size[1]


@dataclass(frozen=True, eq=False)
class Regions:
    """Boxes of one image, with scores and labels. Zero regions are a normal case.

    Attributes:
        boxes: float32 ``(N, 4)``, ``x1 <= x2`` and ``y1 <= y2``, inside the image.
        size: ``(height, width)`` of the original image.
        scores: float32 ``(N,)``; 1 where nothing was detected but given.
        labels: int64 ``(N,)``, 0-based without background; ``NO_LABEL`` for none.
        classes: Names of the labels; empty when they have none.
        extras: Anything else that is known of each region (masks, instance ids); indexed together with the boxes.
    """

    boxes: Tensor
    size: tuple[int, int]
    scores: Tensor = None  # type: ignore[assignment]  # filled in __post_init__
    labels: Tensor = None  # type: ignore[assignment]  # filled in __post_init__
    classes: tuple[str, ...] = ()
    extras: Mapping[str, Payload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = _checked_size("Regions.size", self.size)
        boxes = self.boxes
        if isinstance(boxes, Tensor) and boxes.numel() == 0:
            boxes = boxes.reshape(0, 4)
        boxes = checks.finite("Regions.boxes", checks.shape("Regions.boxes", boxes, (None, 4))).float()
        boxes = _inside(boxes, size)
        count = len(boxes)
        scores = torch.ones(count, device=boxes.device) if self.scores is None else self.scores
        labels = (
            torch.full((count,), NO_LABEL, dtype=torch.int64, device=boxes.device)
            if self.labels is None
            else self.labels
        )
        checks.finite("Regions.scores", checks.shape("Regions.scores", scores, (count,)))
        checks.shape("Regions.labels", labels, (count,))
        if labels.is_floating_point():
            raise TypeError(f"Regions.labels: expected an integer dtype, found {labels.dtype}")
        classes = tuple(self.classes)
        if count and classes and int(labels.max()) >= len(classes):
            raise ValueError(f"Regions.labels: expected labels below {len(classes)}, found {int(labels.max())}")
        if count and int(labels.min()) < NO_LABEL:
            raise ValueError(f"Regions.labels: expected labels of at least {NO_LABEL}, found {int(labels.min())}")
        extras = {k: _checked_payload(f"Regions.extras[{k!r}]", v, count) for k, v in self.extras.items()}
        for name, value in {
            "boxes": boxes, "size": size, "scores": scores.float(), "labels": labels.long(),
            "classes": classes, "extras": MappingProxyType(extras),
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)

    @staticmethod
    def whole(size: tuple[int, int]) -> Regions:
        """The one region that is the whole image."""
        height, width = size
        return Regions(torch.tensor([[0.0, 0.0, float(width), float(height)]]), size)

    @staticmethod
    def empty(size: tuple[int, int]) -> Regions:
        """No regions."""
        return Regions(torch.zeros(0, 4), size)

    @staticmethod
    def cat(parts: Sequence[Regions]) -> Regions:
        """Regions of the same image, one after the other.

        Extras that only some parts have are dropped (the whole image has no mask, for instance). Raises ``ValueError``
        when there are no parts, or sizes or class names differ.
        """
        if not parts:
            raise ValueError("Regions.cat: expected at least one part, found none")
        sizes = {p.size for p in parts}
        named = {p.classes for p in parts if p.classes}
        if len(sizes) > 1 or len(named) > 1:
            raise ValueError(f"Regions.cat: expected one image size and one set of classes, found {sizes} and {named}")
        shared = set.intersection(*(set(p.extras) for p in parts))
        return Regions(
            boxes=torch.cat([p.boxes for p in parts]),
            size=parts[0].size,
            scores=torch.cat([p.scores for p in parts]),
            labels=torch.cat([p.labels for p in parts]),
            classes=next(iter(named), ()),
            extras={k: _cat_payload([p.extras[k] for p in parts]) for k in sorted(shared)},
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Regions:
        """Regions picked by number, slice, boolean mask or index tensor; an integer gives one region."""
        rows = _rows(index, len(self), self.boxes.device)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            extras={k: _pick_payload(v, rows) for k, v in self.extras.items()},
        )

    def __iter__(self) -> Iterator[Regions]:
        return (self[i] for i in range(len(self)))

    @property
    def label_names(self) -> tuple[str | None, ...]:
        """A name per region: its class, the number of an unnamed class, or None for ``NO_LABEL``."""
        return tuple(_label_name(label, self.classes) for label in self.labels.tolist())

    def to(self, device: torch.device | str) -> Regions:
        """The same regions with all tensors on ``device``."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            extras={k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.extras.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        return {
            "size": list(self.size),
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "classes": list(self.classes),
            "extras": {k: _payload_to_json(v) for k, v in self.extras.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Regions:
        """Regions from what :meth:`to_json` made."""
        _expect_keys("Regions", data, ("size", "boxes", "scores", "labels", "classes", "extras"))
        height, width = data["size"]
        return Regions(
            boxes=torch.tensor(data["boxes"], dtype=torch.float32).reshape(-1, 4),
            size=(height, width),
            scores=torch.tensor(data["scores"], dtype=torch.float32),
            labels=torch.tensor(data["labels"], dtype=torch.int64),
            classes=tuple(data["classes"]),
            extras={k: _payload_from_json(v) for k, v in data["extras"].items()},
        )


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
        if not isinstance(self.image, str) or not self.image:
            raise ValueError(f"RegionDescriptors.image: expected a non-empty string, found {self.image!r}")
        checks.shape("RegionDescriptors.vectors", self.vectors, (len(self.regions), None))
        checks.finite("RegionDescriptors.vectors", self.vectors)
        object.__setattr__(self, "vectors", self.vectors.float())
        object.__setattr__(self, "metadata", _frozen_metadata("RegionDescriptors.metadata", self.metadata))

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> RegionDescriptors:
        """Descriptors of some regions, picked as :class:`Regions` are."""
        rows = _rows(index, len(self), self.vectors.device)
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
            "vectors": _payload_to_json(self.vectors),
            "metadata": dict(self.metadata),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RegionDescriptors:
        """Descriptors from what :meth:`to_json` made."""
        _expect_keys("RegionDescriptors", data, ("image", "regions", "vectors", "metadata"))
        vectors = _payload_from_json(data["vectors"])
        if not isinstance(vectors, Tensor):
            raise ValueError("RegionDescriptors.vectors: expected a tensor, found scalars")
        return RegionDescriptors(data["image"], Regions.from_json(data["regions"]), vectors, data["metadata"])


@dataclass(frozen=True)
class Match:
    """One image that was found, and which of its boxes matched which box of the query.

    Attributes:
        image: Id of the image.
        score: Similarity of the best pair of boxes, larger is more similar.
        box: The matched box in the found image, original pixels.
        query_box: The box of the query that it matched, original pixels of the query.
        label: Name of the matched region's class, or None.
        metadata: Columns stored with the image.
        runners_up: The next best pairs in the same image, best first; their own ``runners_up`` are empty.
    """

    image: str
    score: float
    box: Box
    query_box: Box
    label: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    runners_up: tuple[Match, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.image, str) or not self.image:
            raise ValueError(f"Match.image: expected a non-empty string, found {self.image!r}")
        score = float(self.score)
        if not math.isfinite(score):
            raise ValueError(f"Match.score: expected a finite number, found {score}")
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "box", _checked_box("Match.box", self.box))
        object.__setattr__(self, "query_box", _checked_box("Match.query_box", self.query_box))
        object.__setattr__(self, "metadata", _frozen_metadata("Match.metadata", self.metadata))
        object.__setattr__(self, "runners_up", tuple(self.runners_up))
        if any(r.score > score for r in self.runners_up):
            raise ValueError(f"Match.runners_up: expected scores of at most {score}, found a larger one")

    def to_json(self) -> dict[str, Any]:
        """``{"image", "score", "box", "query_box", "label", "metadata", "runners_up"}``."""
        return {
            "image": self.image,
            "score": self.score,
            "box": list(self.box),
            "query_box": list(self.query_box),
            "label": self.label,
            "metadata": dict(self.metadata),
            "runners_up": [r.to_json() for r in self.runners_up],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Match:
        """A match from what :meth:`to_json` made."""
        _expect_keys("Match", data, ("image", "score", "box", "query_box", "label", "metadata", "runners_up"))
        return Match(
            image=data["image"],
            score=data["score"],
            box=tuple(data["box"]),
            query_box=tuple(data["query_box"]),
            label=data["label"],
            metadata=data["metadata"],
            runners_up=tuple(Match.from_json(r) for r in data["runners_up"]),
        )


@dataclass(frozen=True)
class SearchResult:
    """The ranked answer to one query; a sequence of :class:`Match`, best first, each image at most once.

    Attributes:
        image: Id or path of the query image.
        boxes: The query boxes that were searched for, original pixels of the query.
        hits: The matches.
    """

    image: str
    boxes: tuple[Box, ...]
    hits: tuple[Match, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", tuple(_checked_box("SearchResult.boxes", b) for b in self.boxes))
        object.__setattr__(self, "hits", tuple(self.hits))
        scores = [h.score for h in self.hits]
        if any(a < b for a, b in pairwise(scores)):
            raise ValueError(f"SearchResult.hits: expected falling scores, found {scores}")
        if len({h.image for h in self.hits}) != len(self.hits):
            raise ValueError("SearchResult.hits: expected each image once, found one twice")

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Match:
        return self.hits[index]

    def __iter__(self) -> Iterator[Match]:
        return iter(self.hits)

    def to_json(self) -> dict[str, Any]:
        """``{"query": {"image", "boxes"}, "hits": [...]}``: what ``objemb search --json`` prints."""
        return {
            "query": {"image": self.image, "boxes": [list(b) for b in self.boxes]},
            "hits": [h.to_json() for h in self.hits],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SearchResult:
        """A result from what :meth:`to_json` made."""
        _expect_keys("SearchResult", data, ("query", "hits"))
        _expect_keys("SearchResult.query", data["query"], ("image", "boxes"))
        boxes = tuple(tuple(b) for b in data["query"]["boxes"])
        return SearchResult(data["query"]["image"], boxes, tuple(Match.from_json(h) for h in data["hits"]))


def _checked_size(name: str, size: Sequence[int]) -> tuple[int, int]:
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not all(isinstance(s, int) and s > 0 for s in size):
        raise ValueError(f"{name}: expected (height, width) as two integers above 0, found {size!r}")
    return (size[0], size[1])


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes clipped to the image; raises with the first box that is inverted or leaves the image."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    inverted = (x1 > x2) | (y1 > y2)
    low, high_x, high_y = -BOX_TOLERANCE, width + BOX_TOLERANCE, height + BOX_TOLERANCE
    outside = (x1 < low) | (y1 < low) | (x2 > high_x) | (y2 > high_y)
    bad = (inverted | outside).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"Regions.boxes: expected 0 <= x1 <= x2 <= {width} and 0 <= y1 <= y2 <= {height}, "
            f"found box {first} = {tuple(round(v, 3) for v in boxes[first].tolist())} ({len(bad)} such boxes)"
        )
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp_min(0), limit)


def _checked_box(name: str, box: Sequence[float]) -> Box:
    values = tuple(float(v) for v in box)
    if len(values) != 4 or not (values[0] <= values[2] and values[1] <= values[3]) or math.inf in map(abs, values):
        raise ValueError(f"{name}: expected (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, found {box!r}")
    return values


def _frozen_metadata(name: str, metadata: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not (value is None or isinstance(value, (str, int, float, bool))):
            raise TypeError(f"{name}: expected strings to JSON scalars, found {key!r}: {type(value).__name__}")
    return MappingProxyType(dict(metadata))


def _label_name(label: int, classes: tuple[str, ...]) -> str | None:
    if label == NO_LABEL:
        return None
    return classes[label] if classes else str(label)


def _rows(index: int | slice | Tensor | Sequence[int], count: int, device: torch.device) -> Tensor:
    """Any kind of index as an int64 tensor of row numbers."""
    if isinstance(index, slice):
        return torch.tensor(range(count)[index], dtype=torch.int64, device=device)
    picked = torch.as_tensor(index, device=device)
    if picked.is_floating_point() and picked.numel():  # an empty list becomes a floating tensor
        raise TypeError(f"index: expected integers or booleans, found {picked.dtype}")
    if picked.dtype == torch.bool:
        checks.shape("boolean index", picked, (count,))
        return picked.nonzero().flatten()
    picked = picked.reshape(-1).long()
    if len(picked) and (int(picked.min()) < -count or int(picked.max()) >= count):
        raise IndexError(f"index: expected numbers below {count}, found {picked.tolist()}")
    return torch.where(picked < 0, picked + count, picked)


def _checked_payload(name: str, value: Payload, count: int) -> Payload:
    if isinstance(value, Tensor):
        checks.shape(name, value, (count, *(None,) * (value.ndim - 1)))
        return value
    if isinstance(value, str) or not all(v is None or isinstance(v, (str, int, float, bool)) for v in value):
        raise TypeError(f"{name}: expected a tensor or a sequence of JSON scalars, found {value!r}")
    value = tuple(value)
    if len(value) != count:
        raise ValueError(f"{name}: expected {count} rows, one per region, found {len(value)}")
    return value


def _pick_payload(value: Payload, rows: Tensor) -> Payload:
    return value[rows.to(value.device)] if isinstance(value, Tensor) else tuple(value[i] for i in rows.tolist())


def _cat_payload(values: Sequence[Payload]) -> Payload:
    tensors = [v for v in values if isinstance(v, Tensor)]
    if len(tensors) == len(values):
        return torch.cat(tensors)
    return tuple(item for v in values for item in (v.tolist() if isinstance(v, Tensor) else v))


def _payload_to_json(value: Payload) -> dict[str, Any]:
    if isinstance(value, Tensor):
        dtype = checks.one_of("payload dtype", str(value.dtype).removeprefix("torch."), tuple(PAYLOAD_DTYPES))
        return {"dtype": dtype, "shape": list(value.shape), "values": value.tolist()}
    return {"dtype": "scalars", "values": list(value)}


def _payload_from_json(data: Mapping[str, Any]) -> Payload:
    _expect_keys("payload", data, ("dtype", "values"))
    if data["dtype"] == "scalars":
        return tuple(data["values"])
    dtype = PAYLOAD_DTYPES[checks.one_of("payload dtype", data["dtype"], tuple(PAYLOAD_DTYPES))]
    return torch.tensor(data["values"], dtype=dtype).reshape(data["shape"])


def _expect_keys(name: str, data: Mapping[str, Any], keys: Sequence[str]) -> None:
    missing = [k for k in keys if k not in data]
    if missing:
        raise ValueError(f"{name}: expected the keys {checks.listed(keys)}, found {checks.listed(data)}")
