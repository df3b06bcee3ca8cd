"""The side of describing in blocks that hands them out and takes them in; see :mod:`objemb.search.blocks`."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from objemb.checks import ObjembError
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.disk import replacing_folder
from objemb.images.sources import ImageRef, SkippedImage
from objemb.index.storage.schema import RowSchema
from objemb.index.store import Index
from objemb.search.blocks import Block, BlockDescriber, Describing, Task
from objemb.search.executors.base import Executor
from objemb.structures import Described


@dataclass(frozen=True)
class Distribution:
    """Where photos are described, if not in this process.

    Attributes:
        executor: What runs the processes.
        folder: Where blocks are published until they are taken into the index.
        size: Photos of a block.
        device, precision, runtime, threads: Of the model in these processes, as for
            :func:`objemb.models.opening.open_model`; None for the threads that the executor suggests.
    """

    executor: Executor
    folder: Path
    size: int = 256
    device: str = "auto"
    precision: str | None = None
    runtime: str | None = None
    threads: int | None = None


class BlockFolder:
    """Published blocks that were not taken into the index yet: small indexes, each a folder with the block's name.

    Args:
        path: Created when the first block is published.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Names of the blocks that an earlier, killed run has left, sorted."""
        return sorted(p.name for p in self._path.iterdir() if not p.name.startswith(".")) if self._path.is_dir() else []

    def publish(self, block: Block) -> None:
        """Write a block; one of this name that is there already stays."""
        self._path.mkdir(parents=True, exist_ok=True)
        with replacing_folder(self._path / block.name, keep=True) as partial_folder:
            for name, content in block.files.items():
                (partial_folder / Path(name).name).write_bytes(content)

    def open(self, name: str) -> Index:
        """A published block."""
        return Index.open(self._path / name)

    def remove(self, names: Iterable[str]) -> None:
        """Remove blocks that were taken in."""
        for name in names:
            shutil.rmtree(self._path / name, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder with what killed runs have left in it."""
        shutil.rmtree(self._path, ignore_errors=True)


@dataclass
class BlockStream:
    """Describes photos in blocks by an executor, and compares what comes back with what was asked for.

    A block that does not come back, because processes died of it, is divided until the photo is found that they die of;
    that one is skipped.

    Attributes:
        executor: Where blocks are described.
        how: What describes them.
        regions: What determines regions besides the model, as in stamps.
        folder: Where blocks are published until they are taken in.
        schema: The schema of the rows.
        size: Photos of a block.
        on_skip: Called with each photo that could not be described.
        boxes: Boxes from a file, None for the regions of the model. They are found here, and go with the photos.
    """

    executor: Executor
    how: Describing
    regions: str
    folder: BlockFolder
    schema: RowSchema
    size: int
    on_skip: Callable[[SkippedImage], None]
    boxes: StoredBoxes | None = None
    _asked: dict[str, Task] = field(default_factory=dict, init=False, repr=False)
    _taken: list[str] = field(default_factory=list, init=False, repr=False)

    def run(self, photos: Iterable[ImageRef | SkippedImage], stamps: Mapping[str, str]) -> Iterator[Described]:
        """Describe photos, in any order.

        Args:
            photos: The photos, taken as they are needed; those that cannot be read are passed on.
            stamps: The stamp of each photo by id, there when the photo is.

        Raises:
            ObjembError: Processes die even without a photo, or a block has other photos than were asked for.
        """
        left, waiting = self._left_over(), deque[ImageRef]()
        tasks = self._tasks(photos, stamps, left, waiting)
        tried = False  # whether a block without photos was sent along
        while True:
            for content in self.executor.map(
                partial(BlockDescriber, self.how),
                self._sent(tasks),
                threads=self.how.threads or self.executor.threads,
                accelerated=self.how.device != "cpu",
            ):
                yield from self._described(Block.from_bytes(content))
                yield from self._reused(waiting, left)
            yield from self._reused(waiting, left)
            if not self._asked:
                return
            tasks, tried = iter(self._divided(skip=tried)), True

    def committed(self) -> None:
        """To be called when everything that :meth:`run` has yielded is published: its blocks are removed."""
        self.folder.remove(self._taken)
        self._taken.clear()

    def close(self) -> None:
        """To be called when everything is published: what is left of blocks is removed."""
        self.folder.close()

    @property
    def _made_by(self) -> str:
        return json.dumps([self.regions, asdict(self.how)], sort_keys=True)

    def _tasks(
        self,
        photos: Iterable[ImageRef | SkippedImage],
        stamps: Mapping[str, str],
        left: Mapping[str, tuple[str, str]],
        waiting: deque[ImageRef],
    ) -> Iterator[Task]:
        """Photos in blocks; those that an earlier run has described are put into ``waiting`` instead."""
        some: list[ImageRef] = []
        for one in photos:
            if isinstance(one, SkippedImage):
                self.on_skip(one)
            elif one.id in left and left[one.id][1] == stamps[one.id]:
                waiting.append(one)
            else:
                some.append(one)
            if len(some) == self.size:
                yield Task.of(some, stamps, self._made_by)
                some = []
        if some:
            yield Task.of(some, stamps, self._made_by)

    def _sent(self, tasks: Iterable[Task]) -> Iterator[bytes]:
        for task in tasks:
            self._asked[task.name] = task
            yield replace(task, boxes=self._boxes_of(task)).to_bytes()

    def _boxes_of(self, task: Task) -> dict[str, object] | None:
        """What the file of boxes has for each photo of a task."""
        if self.boxes is None:
            return None
        given = {
            photo.id: self.boxes.given_for(photo.id, None if photo.address else os.path.abspath(photo.path))
            for photo in task.photos
        }
        return {id: one.to_json(masks=self.boxes.masks) for id, one in given.items()}

    def _described(self, block: Block) -> Iterator[Described]:
        """Publish a block and read what was described; nothing if the block came before."""
        task = self._asked.pop(block.name, None)
        if task is None:
            return
        self.folder.publish(block)
        index = self.folder.open(block.name)
        ids = [stored.id for stored in index.images()]
        if sorted([*ids, *(one.id for one in block.skipped)]) != sorted(one.id for one in task.photos):
            raise ObjembError(
                f"block {block.name}: expected {len(task.photos)} photos described or skipped, found {len(ids)} and "
                f"{len(block.skipped)}, or others"
            )
        for one in block.skipped:
            self.on_skip(one)
        if self.boxes is not None:
            for outcome in block.boxes:
                self.boxes.record(outcome)
        for id in ids:
            described = index.get(id)
            assert described is not None
            yield described
        self._taken.append(block.name)

    def _divided(self, *, skip: bool) -> list[Task]:
        """Tasks for the photos of blocks that did not come back, and one without photos, which shows whether processes
        run at all.

        Args:
            skip: Whether single photos are skipped, because processes do run.
        """
        lost = list(self._asked.values())
        self._asked.clear()
        if any(not task.photos for task in lost):
            raise ObjembError(
                f"--on: expected processes that keep running with the model {self.how.model}, found that they die even "
                "without a photo. Systems that are short of memory end processes: use fewer"
            )
        single = [task.photos[0] for task in lost if skip and len(task.photos) == 1]
        for photo in single:
            reason = "the processes that described it died: it crashes a library, or takes too much memory"
            self.on_skip(SkippedImage(photo.id, photo.place, reason))
        halves = [half for task in lost if task.photos[0] not in single for half in task.halves(self._made_by)]
        return [Task.of((), {}, self._made_by), *halves] if halves else []

    def _left_over(self) -> dict[str, tuple[str, str]]:
        """The photos that a killed run has described but not taken in: the name of the block and the stamp, by id."""
        photos: dict[str, tuple[str, str]] = {}
        for name in self.folder.names():
            try:
                index = self.folder.open(name)
                if index.fingerprint == self.how.fingerprint and index.schema == self.schema:
                    photos |= {id: (name, stamp) for id, stamp in index.stamps().items() if stamp is not None}
            except (ObjembError, OSError):  # it is described anew
                continue
        return photos

    def _reused(self, waiting: deque[ImageRef], left: Mapping[str, tuple[str, str]]) -> Iterator[Described]:
        opened: dict[str, Index] = {}
        while waiting:
            photo = waiting.popleft()
            name = left[photo.id][0]
            if name not in opened:
                opened = {name: self.folder.open(name)}
            described = opened[name].get(photo.id)
            assert described is not None
            yield described
