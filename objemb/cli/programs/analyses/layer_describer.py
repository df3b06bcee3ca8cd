"""Which regions of which photos are looked at."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from objemb.cli.programs.analyses.features import LayerRows, View, Wanted, describe_layers
from objemb.cli.programs.analyses.settings import BOXES, GRID, TRUTH, WHOLE
from objemb.cli.programs.analyses.trunks import Trunk
from objemb.datasets.box_frames import fits, outside
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.ops.arrays import as_tensor
from objemb.regions.base import RegionSource
from objemb.structures import Box, Photo, Regions


class Sight:
    """Photos of a set, and photos that a whitening is fitted on, through one network after the other.

    Args:
        data: The set.
        task: What is to be found in what.
        attention: Gives the whole image and boxes of the database photos; None for no such regions.
        whiten_boxes: The same of the photos for the whitening.
        size: Longest side of a photo in pixels when it enters a network.
        multiple: Both sides become a multiple of this.
        workers: Decoding threads.

    Attributes:
        problems: A line for each photo that could not be read, and where the whitening sees what is measured.
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

    def evaluation(self, trunk: Trunk, views: Sequence[View]) -> dict[View, LayerRows]:
        """Rows of the set: items are the database, and behind it the queries."""
        refs = (ImageRef(file, self.data.photo(file)) for file in self._items)
        kinds = {view.kind for view in views}
        return self._describe(trunk, refs, lambda photo: list(self._of_set(photo, kinds)), views)

    def whitening(self, trunk: Trunk, views: Sequence[View], photos: Sequence[str | Path]) -> dict[View, LayerRows]:
        """Rows of the same kinds from other photos; items are these photos, or at object level their objects."""
        found = list(find_images([Path(p) for p in photos]))
        refs = [ref for ref in found if isinstance(ref, ImageRef)]
        for skipped in found:
            if isinstance(skipped, SkippedImage):
                self._note(skipped)
        measured = {self.data.photo(file).resolve() for file in self._items}
        seen = sum(ref.path.resolve() in measured for ref in refs)
        if seen:
            self.problems.append(f"the whitening is fitted on {seen} photos of the evaluation set, which flatters it")
        return self._describe(trunk, refs, self._of_others(), views)

    def _describe(
        self,
        trunk: Trunk,
        refs: Iterable[ImageRef],
        wanted: Callable[[Photo], Sequence[Wanted]],
        views: Sequence[View],
    ) -> dict[View, LayerRows]:
        side = max(self.size, self._attention.decode_side(), self._whiten_boxes.decode_side())
        return describe_layers(
            trunk,
            refs,
            wanted,
            views,
            size=self.size,
            multiple=self.multiple,
            side=side,
            workers=self.workers,
            on_skip=self._note,
        )

    def _of_set(self, photo: Photo, kinds: set[str]) -> Iterator[Wanted]:
        for number, box in self._items[photo.id]:
            if not self._lies_in(photo, box):
                continue
            own = as_tensor((Regions.whole(photo.size) if box is None else Regions([box], photo.size)).boxes)
            yield Wanted(number, WHOLE, own)
            yield Wanted(number, GRID, own, grid=True)
            if number >= len(self.task.database):
                continue
            if BOXES in kinds:
                yield Wanted(number, BOXES, self._attention.boxes(photo))
            if TRUTH in kinds:
                inside = [b for b in self._truth[photo.id] if self._lies_in(photo, b)]
                true = torch.tensor(inside, dtype=torch.float32).reshape(-1, 4)
                yield Wanted(number, TRUTH, torch.cat([own, as_tensor(Regions(true, photo.size).boxes)]))

    def _of_others(self) -> Callable[[Photo], Sequence[Wanted]]:
        numbers = itertools.count()

        def wanted(photo: Photo) -> list[Wanted]:
            found = self._whiten_boxes.boxes(photo)
            own = found[:1] if self.task.level == "image" else found[1:]
            number = next(numbers)
            regions = [Wanted(number, WHOLE, own), Wanted(number, BOXES, found), Wanted(number, TRUTH, found)]
            # each own box before its squares is an item, as it is in the set
            return regions + [Wanted(next(numbers), GRID, own[i : i + 1], grid=True) for i in range(len(own))]

        return wanted

    def _lies_in(self, photo: Photo, box: Box | None) -> bool:
        if not fits(box, photo.size):
            self.problems.append(f"{photo.id}: {outside(photo.size, box)}")
        return fits(box, photo.size)

    def _note(self, skipped: SkippedImage) -> None:
        self.problems.append(f"{skipped.id}: {skipped.reason}")


class _Remembered:
    """The regions of a source, found once a photo; the whole image where there is no source."""

    def __init__(self, source: RegionSource | None) -> None:
        self._source = source
        self._found: dict[str, Tensor] = {}

    def boxes(self, photo: Photo) -> Tensor:
        """float32 ``(1 + N, 4)``, the whole image first."""
        if self._source is None:
            return as_tensor(Regions.whole(photo.size).boxes)
        if photo.id not in self._found:
            self._found[photo.id] = as_tensor(self._source.find([photo], [])[0].boxes)
        return self._found[photo.id]

    def decode_side(self) -> int:
        """What the source can use of a photo."""
        return 0 if self._source is None else self._source.decode_side()
