"""Boxes of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from objemb import checks
from objemb.structures.fields import (
    Index,
    Payload,
    ReadOnlyDict,
    as_array,
    cat_payload,
    checked_payload,
    checked_size,
    expect_keys,
    payload_from_json,
    payload_to_json,
    pick_payload,
    row_numbers,
)
from objemb.types import AnyArray, Float32Array, Int64Array

#: Label of a region without a class, such as the whole image.
NO_LABEL = -1
#: Boxes may exceed the image by this many pixels (rounding of float32 arithmetic) and are clipped; more is an error.
BOX_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False, init=False)
class Regions:
    """Boxes of one image, with scores and labels. Zero regions are a normal case.

    Attributes are NumPy arrays. They may be given as tensors, which are moved to the CPU; CPU tensors share their
    memory.

    Attributes:
        boxes: float32 ``(N, 4)``, xyxy in original pixels, ``x1 <= x2`` and ``y1 <= y2``, inside the image.
        size: ``(height, width)`` of the original image.
        scores: float32 ``(N,)``; 1 for boxes that were given rather than detected.
        labels: int64 ``(N,)``, 0-based class numbers without background; ``NO_LABEL`` for none.
        classes: Names of the classes; empty if they have none.
        extras: Further values per region (masks, instance numbers), selected together with the boxes.
    """

    boxes: Float32Array
    size: tuple[int, int]
    scores: Float32Array
    labels: Int64Array
    classes: tuple[str, ...]
    extras: Mapping[str, Payload]

    def __init__(
        self,
        boxes: ArrayLike,
        size: tuple[int, int],
        scores: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        classes: Sequence[str] = (),
        extras: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        size = checked_size("Regions.size", size)
        rows = as_array("Regions.boxes", boxes)
        rows = rows.reshape(0, 4) if rows.size == 0 else rows
        checks.finite("Regions.boxes", checks.shape("Regions.boxes", rows, (None, 4)))
        count = len(rows)
        sure = np.ones(count, np.float32) if scores is None else as_array("Regions.scores", scores)
        checks.finite("Regions.scores", checks.shape("Regions.scores", sure, (count,)))
        self._set(
            _inside(rows.astype(np.float32, copy=False), size),
            size,
            sure.astype(np.float32, copy=False),
            _checked_labels(labels, count, tuple(classes)),
            tuple(classes),
            ReadOnlyDict({k: checked_payload(f"Regions.extras[{k!r}]", v, count) for k, v in extras.items()}),
        )

    def _set(
        self,
        boxes: Float32Array,
        size: tuple[int, int],
        scores: Float32Array,
        labels: Int64Array,
        classes: tuple[str, ...],
        extras: Mapping[str, Payload],
    ) -> Regions:
        """Set fields that are already validated, here or as part of other regions."""
        values = (boxes, size, scores, labels, classes, extras)
        for name, value in zip(("boxes", "size", "scores", "labels", "classes", "extras"), values, strict=True):
            object.__setattr__(self, name, value)
        return self

    @staticmethod
    def whole(size: tuple[int, int]) -> Regions:
        """A single region, the whole image."""
        height, width = size
        return Regions([[0.0, 0.0, float(width), float(height)]], size)

    def with_whole(self) -> Regions:
        """The whole image, then these regions.

        The whole image gets the extras that these have: its mask is full; of anything else it knows nothing, which is
        None among scalars and zeros in an array.
        """
        unknown = {
            name: (None,)
            if isinstance(value, tuple)
            else np.full_like(value, int(name == "masks"), shape=(1, *value.shape[1:]))
            for name, value in self.extras.items()
        }
        whole = Regions(Regions.whole(self.size).boxes, self.size, classes=self.classes, extras=unknown)
        return Regions.cat([whole, self])

    @staticmethod
    def empty(size: tuple[int, int]) -> Regions:
        """No regions."""
        return Regions((), size)

    @staticmethod
    def cat(parts: Sequence[Regions]) -> Regions:
        """Concatenate regions of the same image.

        Extras that are not in all parts are dropped (the whole image has no mask, for instance). Raises ``ValueError``
        if there are no parts, or sizes or class names differ.
        """
        if not parts:
            raise ValueError("Regions.cat: expected at least one part, found none")
        sizes = {p.size for p in parts}
        named = {p.classes for p in parts if p.classes}
        if len(sizes) > 1 or len(named) > 1:
            raise ValueError(f"Regions.cat: expected one image size and one set of classes, found {sizes} and {named}")
        shared = set.intersection(*(set(p.extras) for p in parts))
        return object.__new__(Regions)._set(
            np.concatenate([p.boxes for p in parts]),
            parts[0].size,
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.labels for p in parts]),
            next(iter(named), ()),
            ReadOnlyDict({k: cat_payload([p.extras[k] for p in parts]) for k in sorted(shared)}),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Regions:
        """Select regions by a number (which gives one region), a slice, a boolean mask or several numbers."""
        rows = row_numbers(index, len(self))
        return object.__new__(Regions)._set(
            self.boxes[rows],
            self.size,
            self.scores[rows],
            self.labels[rows],
            self.classes,
            ReadOnlyDict({k: pick_payload(v, rows) for k, v in self.extras.items()}),
        )

    def __iter__(self) -> Iterator[Regions]:
        return (self[i] for i in range(len(self)))

    def array(self, extra: str) -> AnyArray | None:
        """An extra that is an array, such as ``masks``; None if the regions do not have it.

        Raises:
            TypeError: The extra is not an array.
        """
        value = self.extras.get(extra)
        if isinstance(value, tuple):
            raise TypeError(f"Regions.extras[{extra!r}]: expected an array or a tensor, found a {type(value).__name__}")
        return value

    @property
    def label_names(self) -> tuple[str | None, ...]:
        """Name of each region's class, the number of an unnamed class, or None for ``NO_LABEL``."""
        return tuple(_label_name(label, self.classes) for label in self.labels.tolist())

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict, read by :meth:`from_json`."""
        return {
            "size": list(self.size),
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "classes": list(self.classes),
            "extras": {k: payload_to_json(v) for k, v in self.extras.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Regions:
        """Regions from the output of :meth:`to_json`."""
        expect_keys("Regions", data, ("size", "boxes", "scores", "labels", "classes", "extras"))
        height, width = data["size"]
        return Regions(
            boxes=np.array(data["boxes"], np.float32).reshape(-1, 4),
            size=(height, width),
            scores=np.array(data["scores"], np.float32),
            labels=np.array(data["labels"], np.int64),
            classes=tuple(data["classes"]),
            extras={k: payload_from_json(v) for k, v in data["extras"].items()},
        )


def _inside(boxes: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Clip boxes to the image; raises ``ValueError`` with the first box that is inverted or exceeds the image."""
    height, width = size
    x1, y1, x2, y2 = boxes.T
    low, high_x, high_y = -BOX_TOLERANCE, width + BOX_TOLERANCE, height + BOX_TOLERANCE
    bad = np.flatnonzero((x1 > x2) | (y1 > y2) | (x1 < low) | (y1 < low) | (x2 > high_x) | (y2 > high_y))
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"Regions.boxes: expected 0 <= x1 <= x2 <= {width} and 0 <= y1 <= y2 <= {height}, "
            f"found box {first} = {tuple(round(v, 3) for v in boxes[first].tolist())} ({len(bad)} such boxes)"
        )
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def _checked_labels(labels: ArrayLike | None, count: int, classes: tuple[str, ...]) -> Int64Array:
    """Labels as int64 ``(N,)``: class numbers, or :data:`NO_LABEL`."""
    if labels is None:
        return np.full(count, NO_LABEL, np.int64)
    numbers = checks.shape("Regions.labels", as_array("Regions.labels", labels), (count,))
    if numbers.dtype.kind == "f" and count:  # an empty list becomes an array of floats
        raise TypeError(f"Regions.labels: expected an integer dtype, found {numbers.dtype}")
    if count and classes and int(numbers.max()) >= len(classes):
        raise ValueError(f"Regions.labels: expected labels below {len(classes)}, found {int(numbers.max())}")
    if count and int(numbers.min()) < NO_LABEL:
        raise ValueError(f"Regions.labels: expected labels of at least {NO_LABEL}, found {int(numbers.min())}")
    return numbers.astype(np.int64, copy=False)


def _label_name(label: int, classes: tuple[str, ...]) -> str | None:
    if label == NO_LABEL:
        return None
    return classes[label] if classes else str(label)
