"""Descriptors of the regions of a set, and of other photos to fit a whitening on, from the layers of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from objemb.cli.programs.analyses.features import FeatureView, RegionRequest, describe_layers
from objemb.cli.programs.analyses.settings import BOXES, GRID, TRUTH, WHOLE
from objemb.cli.programs.analyses.trunks import Trunk
from objemb.datasets.box_frames import fits, outside
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.regions.base import RegionSource
from objemb.structures import Box, ImageRows, Photo, Regions
from objemb.types import Float32Array


class LayerDescriber:
    """Describes the photos of a set, and photos to fit a whitening on, with a given network.

    Args:
        data: The set.
        task: The retrieval task on the set.
        attention: Gives the whole image and boxes of the database photos; None for no such regions.
        whiten_boxes: Gives the same for the photos of the whitening.
        size: Longest side of a photo at the input of a network, in pixels.
        multiple: Both sides become a multiple of this.
        workers: Number of decoding threads.

    Attributes:
        problems: A line for each photo that could not be read, and one if the whitening is fitted on photos of the set.
    """

    def __init__(
        self,
        data: EvaluationSet,
        task: RetrievalTask,
        attention: RegionSource | None,
        whiten_boxes: RegionSource | None,
        *,
        size: int,
        multiple: int,
        workers: int,
    ) -> None:
        self.data, self.task = data, task
        self.size, self.multiple, self.workers = size, multiple, workers
        self.problems: list[str] = []
        self._attention, self._whiten_boxes = _Remembered(attention), _Remembered(whiten_boxes)
        self._items: dict[str, list[tuple[int, Box | None]]] = defaultdict(list)
        for number, entry in enumerate((*task.database, *task.queries)):
            self._items[entry.file].append((number, entry.box))
        self._truth: dict[str, list[Box]] = defaultdict(list)
        for entry in data.objects:
            self._truth[entry.file] += [entry.box] if entry.box is not None else []

    def evaluation(self, trunk: Trunk, views: Sequence[FeatureView]) -> dict[FeatureView, ImageRows]:
        """Rows of the set. Its images are those of the database, followed by the queries."""
        refs = (ImageRef(file, self.data.photo(file)) for file in self._items)
        kinds = {view.kind for view in views}
        images = [entry.file for entry in (*self.task.database, *self.task.queries)]
        return self._describe(trunk, refs, lambda photo: list(self._of_set(photo, kinds)), views, images)

    def whitening(
        self, trunk: Trunk, views: Sequence[FeatureView], photos: Sequence[str | Path]
    ) -> dict[FeatureView, ImageRows]:
        """Rows of the same kinds from other photos. Images are these photos, or their objects at object level."""
        sources = list(find_images([Path(p) for p in photos]))
        refs = [ref for ref in sources if isinstance(ref, ImageRef)]
        for skipped in sources:
            if isinstance(skipped, SkippedImage):
                self._note(skipped)
        measured = {self.data.photo(file).resolve() for file in self._items}
        shared = sum(ref.path.resolve() in measured for ref in refs)
        if shared:
            self.problems.append(
                f"the whitening is fitted on {shared} photos of the evaluation set: its results are too good"
            )
        images: list[str] = []
        return self._describe(trunk, refs, partial(self._of_other, images), views, images)

    def _describe(
        self,
        trunk: Trunk,
        refs: Iterable[ImageRef],
        requests: Callable[[Photo], Sequence[RegionRequest]],
        views: Sequence[FeatureView],
        images: Sequence[str],
    ) -> dict[FeatureView, ImageRows]:
        described = describe_layers(
            trunk,
            refs,
            requests,
            views,
            size=self.size,
            multiple=self.multiple,
            side=max(self.size, self._attention.decode_side(), self._whiten_boxes.decode_side()),
            workers=self.workers,
            on_skip=self._note,
        )
        channels = {layer.name: layer.channels for layer in trunk.layers}
        return {
            view: ImageRows.from_descriptors(items, channels[view.layer], images) for view, items in described.items()
        }

    def _of_set(self, photo: Photo, kinds: set[str]) -> Iterator[RegionRequest]:
        for number, box in self._items[photo.id]:
            if not self._lies_in(photo, box):
                continue
            own = (Regions.whole(photo.size) if box is None else Regions([box], photo.size)).boxes
            yield RegionRequest(number, WHOLE, own)
            yield RegionRequest(number, GRID, own, grid=True)
            if number >= len(self.task.database):
                continue
            if BOXES in kinds:
                yield RegionRequest(number, BOXES, self._attention.boxes(photo))
            if TRUTH in kinds:
                inside = [b for b in self._truth[photo.id] if self._lies_in(photo, b)]
                yield RegionRequest(number, TRUTH, np.concatenate([own, Regions(inside, photo.size).boxes]))

    def _of_other(self, images: list[str], photo: Photo) -> list[RegionRequest]:
        """The regions of a photo for the whitening, whose items are added to ``images``."""
        boxes = self._whiten_boxes.boxes(photo)
        own = boxes[:1] if self.task.level == "image" else boxes[1:]
        number = len(images)
        # each box is an item, followed by its own squares, as in the set
        images += [photo.id] * (1 + len(own))
        regions = [RegionRequest(number, kind, part) for kind, part in ((WHOLE, own), (BOXES, boxes), (TRUTH, boxes))]
        return regions + [RegionRequest(number + 1 + n, GRID, own[n : n + 1], grid=True) for n in range(len(own))]

    def _lies_in(self, photo: Photo, box: Box | None) -> bool:
        if not fits(box, photo.size):
            self.problems.append(f"{photo.id}: {outside(photo.size, box)}")
        return fits(box, photo.size)

    def _note(self, skipped: SkippedImage) -> None:
        self.problems.append(f"{skipped.id}: {skipped.reason}")


class _Remembered:
    """Caches the regions of a source by photo; without a source, the whole image is the only region."""

    def __init__(self, source: RegionSource | None) -> None:
        self._source = source
        self._boxes: dict[str, Float32Array] = {}

    def boxes(self, photo: Photo) -> Float32Array:
        """float32 ``(1 + N, 4)``, xyxy in original pixels, the whole image first."""
        if self._source is None:
            return Regions.whole(photo.size).boxes
        if photo.id not in self._boxes:
            self._boxes[photo.id] = self._source.find([photo])[0].boxes
        return self._boxes[photo.id]

    def decode_side(self) -> int:
        """Side to which photos may be decoded for the source, in pixels."""
        return 0 if self._source is None else self._source.decode_side()
