"""A set of coloured patches on grey photos, and a model that sees nothing but mean colours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from objemb.detectors.base import Detector
from objemb.images.sources import ImageRef, SkippedImage
from objemb.images.stream import stream_photos
from objemb.structures import Box, Photo, RegionDescriptors, Regions

COLOURS = {"red": (250, 10, 10), "green": (10, 240, 20), "blue": (15, 5, 245)}
LEFT, RIGHT = (0, 0, 20, 20), (20, 0, 40, 20)


def write_set(folder: Path, **changes: Any) -> Path:
    """Three photos of 40 x 20 pixels, each with two patches, and queries by box and by whole photo."""
    patches = {"a.png": ("red", "green"), "b.png": ("red", "blue"), "c.png": ("blue", "green")}
    for file, names in patches.items():
        photo = Image.new("RGB", (40, 20))
        for name, box in zip(names, (LEFT, RIGHT), strict=True):
            photo.paste(COLOURS[name], box)
        photo.save(folder / file)
    Image.new("RGB", (10, 10), COLOURS["green"]).save(folder / "q.png")
    objects = [
        {"file": file, "instance": name, "box": list(box)}
        for file, names in patches.items()
        for name, box in zip(names, (LEFT, RIGHT), strict=True)
    ]
    data = {
        "images": [{"file": file, "instances": list(names)} for file, names in patches.items()],
        "objects": objects,
        "queries": [
            {"file": "a.png", "instance": "red", "box": list(LEFT), "kind": "patch"},
            {"file": "q.png", "instance": "green", "box": None, "kind": "whole"},
        ],
        **changes,
    }
    path = folder / "set.json"
    path.write_text(json.dumps(data))
    return path


class Patches(Detector):
    """A detector that finds both patches of every photo, of the left one only a strip."""

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        return [Regions(torch.tensor([[0.0, 0, 8, 20], RIGHT]), photo.size) for photo in photos]


class ColourModel:
    """Region vectors are unit mean colours. Counts how often it is asked."""

    dim = 3
    kernel = None
    decode_side = None
    photo_describer = None

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def query_side(self, crop: str) -> int | None:
        return self.decode_side

    def __init__(self) -> None:
        self.queried: list[tuple[str, int | str, str]] = []

    def query(
        self, image: Photo, boxes: Sequence[Box] | str | None = None, *, crop: str = "context"
    ) -> RegionDescriptors:
        self.queried.append((image.id, boxes if isinstance(boxes, str) else len(boxes or ()), crop))
        if not isinstance(boxes, str):
            return self._see(image, Regions(torch.tensor(boxes), image.size))
        whole = [] if boxes == "detector" else [Regions.whole(image.size)]
        return self._see(image, Regions.cat(whole + ([] if boxes == "whole" else Patches().detect([image]))))

    def stream(
        self,
        sources: Iterable[ImageRef | SkippedImage],
        *,
        workers: int = 2,
        boxes: Any = None,
        on_skip: Callable[[SkippedImage], None],
    ) -> Iterator[RegionDescriptors]:
        for photo in stream_photos(sources, workers=workers):
            if isinstance(photo, SkippedImage):
                on_skip(photo)
                continue
            found = [Regions.whole(photo.size)] + ([] if boxes is None else boxes.detect([photo]))
            yield self._see(photo, Regions.cat(found))

    def _see(self, photo: Photo, regions: Regions) -> RegionDescriptors:
        cuts = [
            torch.as_tensor(photo.pixels)[:, y1:y2, x1:x2].float()
            for x1, y1, x2, y2 in torch.as_tensor(regions.boxes).long().tolist()
        ]
        vectors = torch.stack([cut.mean(dim=(1, 2)) for cut in cuts])
        return RegionDescriptors(photo.id, regions, torch.nn.functional.normalize(vectors, dim=1))
