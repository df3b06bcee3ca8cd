"""Boxes of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from objemb import checks
from objemb.structures.fields import (
    Payload,
    ReadOnlyDict,
    cat_payload,
    checked_payload,
    checked_size,
    expect_keys,
    payload_from_json,
    payload_to_json,
    pick_payload,
    row_numbers,
)

#: Label of a region that no detector named, such as the whole image.
NO_LABEL = -1
#: Boxes may leave the image by this many pixels (rounding of float32 arithmetic) and are clipped; more is an error.
BOX_TOLERANCE = 0.01


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
        size = checked_size("Regions.size", self.size)
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
        extras = {k: checked_payload(f"Regions.extras[{k!r}]", v, count) for k, v in self.extras.items()}
        for name, value in {
            "boxes": boxes, "size": size, "scores": scores.float(), "labels": labels.long(),
            "classes": classes, "extras": ReadOnlyDict(extras),
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
            extras={k: cat_payload([p.extras[k] for p in parts]) for k in sorted(shared)},
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Regions:
        """Regions picked by number, slice, boolean mask or index tensor; an integer gives one region."""
        rows = row_numbers(index, len(self), self.boxes.device)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            extras={k: pick_payload(v, rows) for k, v in self.extras.items()},
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
            "extras": {k: payload_to_json(v) for k, v in self.extras.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Regions:
        """Regions from what :meth:`to_json` made."""
        expect_keys("Regions", data, ("size", "boxes", "scores", "labels", "classes", "extras"))
        height, width = data["size"]
        return Regions(
            boxes=torch.tensor(data["boxes"], dtype=torch.float32).reshape(-1, 4),
            size=(height, width),
            scores=torch.tensor(data["scores"], dtype=torch.float32),
            labels=torch.tensor(data["labels"], dtype=torch.int64),
            classes=tuple(data["classes"]),
            extras={k: payload_from_json(v) for k, v in data["extras"].items()},
        )


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


def _label_name(label: int, classes: tuple[str, ...]) -> str | None:
    if label == NO_LABEL:
        return None
    return classes[label] if classes else str(label)
