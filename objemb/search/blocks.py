"""Photos described in blocks by other processes, here or on other machines.

A block is a list of photos. A worker describes them into a small index of its own, whose files it returns whole; the
process that started the job publishes them as a folder, by a rename, and takes them into the index. The name of a block
is a hash of what is in it: the photos, their stamps, and what describes them. So a block that comes twice, because a
machine died after it was done, is recognised, and one that never comes is missed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from objemb.checks import ArtefactMismatchError
from objemb.detectors.base import Detector
from objemb.detectors.stored_boxes import BoxFile, GivenBoxes, PlacedBoxes, placed
from objemb.images.decode import MAX_PIXELS
from objemb.images.sources import ImageRef, SkippedImage
from objemb.index.storage.lock import LOCK_FILE
from objemb.index.store import Index
from objemb.models.opening import open_model
from objemb.models.row_schema import row_schema
from objemb.structures import Photo, Regions
from objemb.version import __version__

#: Bytes that hold the length of a header.
_LENGTH = 8


@dataclass(frozen=True)
class Describing:
    """What a worker needs to describe photos as the process does that started it.

    Attributes:
        model: The model folder, or ``hf:ORG/NAME``; every machine has to reach it at this path.
        fingerprint: The fingerprint that it has there.
        device, precision, runtime, threads: As for :func:`objemb.models.opening.open_model`.
        dtype: Number type of the rows, as for :func:`objemb.models.row_schema.row_schema`.
        batch_size, workers, max_regions, max_pixels: As for ``EmbeddingModel.stream``.
        boxes: The file of boxes, if they are given; those of each photo come with its task.
        version: Version of objemb.
    """

    model: str
    fingerprint: str
    device: str = "auto"
    precision: str | None = None
    runtime: str | None = None
    threads: int | None = None
    dtype: str | None = None
    batch_size: int = 8
    workers: int = 2
    max_regions: int | None = None
    max_pixels: int = MAX_PIXELS
    boxes: BoxFile | None = None
    version: str = __version__


@dataclass(frozen=True)
class Task:
    """The photos of a block.

    Attributes:
        name: Hash of everything that determines the rows: 32 hexadecimal digits.
        photos: The photos.
        stamps: The stamp of each by id.
        boxes: What a file of boxes has for each by id, JSON-ready; None for the regions of the model.
    """

    name: str
    photos: tuple[ImageRef, ...]
    stamps: Mapping[str, str]
    boxes: Mapping[str, Any] | None = None

    @staticmethod
    def of(photos: Iterable[ImageRef], stamps: Mapping[str, str], made_by: str) -> Task:
        """A task of some photos.

        Args:
            photos: The photos.
            stamps: The stamp of each by id, and of others.
            made_by: What determines the rows besides the photos: the fingerprint of the model, its settings.
        """
        some = tuple(photos)
        named = [[one.id, one.address or str(one.path), dict(one.metadata), stamps[one.id]] for one in some]
        content = json.dumps([made_by, named], sort_keys=True).encode()
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        return Task(name, some, {one.id: stamps[one.id] for one in some})

    def halves(self, made_by: str) -> list[Task]:
        """The same photos in two tasks; this task itself if it has one photo."""
        if len(self.photos) < 2:
            return [self]
        middle = len(self.photos) // 2
        return [Task.of(part, self.stamps, made_by) for part in (self.photos[:middle], self.photos[middle:])]

    def to_bytes(self) -> bytes:
        """JSON, in ASCII: names that are not UTF-8 contain lone surrogates."""
        photos = [
            {"id": p.id, "path": str(p.path), "metadata": dict(p.metadata), "address": p.address} for p in self.photos
        ]
        return json.dumps(
            {"name": self.name, "photos": photos, "stamps": dict(self.stamps), "boxes": self.boxes}
        ).encode()

    @staticmethod
    def from_bytes(content: bytes) -> Task:
        """The task from :meth:`to_bytes`."""
        data = json.loads(content)
        photos = tuple(ImageRef(p["id"], Path(p["path"]), p["metadata"], p["address"]) for p in data["photos"])
        return Task(data["name"], photos, data["stamps"], data["boxes"])


@dataclass(frozen=True)
class Block:
    """What a worker made of a task.

    Attributes:
        name: Name of the task.
        files: The files of a small index with the photos that were described, by name.
        skipped: The photos that were not.
        boxes: What became of given boxes.
    """

    name: str
    files: Mapping[str, bytes]
    skipped: tuple[SkippedImage, ...] = ()
    boxes: tuple[PlacedBoxes, ...] = ()

    def to_bytes(self) -> bytes:
        """The length of a header in JSON, the header, and the files one after the other."""
        sizes = [[name, len(content)] for name, content in self.files.items()]
        facts = {
            "name": self.name,
            "files": sizes,
            "skipped": [one.to_json() for one in self.skipped],
            "boxes": [asdict(one) for one in self.boxes],
        }
        header = json.dumps(facts).encode()
        return b"".join([len(header).to_bytes(_LENGTH, "little"), header, *self.files.values()])

    @staticmethod
    def from_bytes(content: bytes) -> Block:
        """The block from :meth:`to_bytes`. Raises ``ValueError`` if bytes are missing or too many."""
        start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
        facts: dict[str, Any] = json.loads(content[_LENGTH:start])
        files = {}
        for name, size in facts["files"]:
            files[name] = content[start : start + size]
            start += size
        if start != len(content):
            raise ValueError(f"block {facts['name']}: expected {start} bytes, found {len(content)}")
        boxes = tuple(map(PlacedBoxes.from_json, facts["boxes"]))
        return Block(facts["name"], files, tuple(SkippedImage(**one) for one in facts["skipped"]), boxes)


class BlockDescriber:
    """The worker: describes the photos of tasks.

    Args:
        how: The model and its settings.
        number: Number of the process: with several GPUs in sight, each process takes one of them in turn.

    Raises:
        ArtefactMismatchError: The model, or the version of objemb, is another one than where the job was started.
        FileNotFoundError: There is no model at the path.
    """

    def __init__(self, how: Describing, number: int) -> None:
        if how.version != __version__:
            raise ArtefactMismatchError(
                f"objemb on a worker: expected version {how.version}, as where the job was started, found {__version__}"
            )
        self._how = how
        self._model = open_model(
            how.model, _device(how.device, number), how.precision, runtime=how.runtime, threads=how.threads
        )
        if self._model.fingerprint != how.fingerprint:
            raise ArtefactMismatchError(
                f"{how.model} on a worker: expected the model with fingerprint {how.fingerprint!r}, found "
                f"{self._model.fingerprint!r}"
            )
        self._schema = row_schema(self._model, how.dtype)

    def __call__(self, content: bytes) -> bytes:
        """A :class:`Task` to a :class:`Block`, both as bytes."""
        task, how = Task.from_bytes(content), self._how
        skipped: list[SkippedImage] = []
        boxes = None if how.boxes is None or task.boxes is None else _SentBoxes(task.boxes, how.boxes)
        with tempfile.TemporaryDirectory(prefix="objemb-block-") as folder:
            place = Path(folder) / "index"
            index = Index.create(place, schema=self._schema, fingerprint=how.fingerprint)
            described = self._model.stream(
                task.photos,
                batch_size=how.batch_size,
                workers=how.workers,
                boxes=boxes,
                max_regions=how.max_regions,
                max_pixels=how.max_pixels,
                on_skip=skipped.append,
            )
            with index.writer() as writer:
                for one in described:
                    writer.add(one, stamp=task.stamps[one.image])
            files = {path.name: path.read_bytes() for path in place.iterdir() if path.name != LOCK_FILE}
        outcomes = () if boxes is None else tuple(boxes.outcomes.values())
        return Block(task.name, files, tuple(skipped), outcomes).to_bytes()


class _SentBoxes(Detector):
    """The boxes of a file, of the photos of a task.

    Attributes:
        outcomes: What became of those of each photo, by its id.
    """

    def __init__(self, given: Mapping[str, Any], file: BoxFile) -> None:
        self._given, self._file = given, file
        self.classes = file.classes
        self.outcomes: dict[str, PlacedBoxes] = {}

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """As :meth:`Detector.detect`."""
        found = []
        for photo in photos:
            regions, self.outcomes[photo.id] = placed(photo, GivenBoxes.from_json(self._given[photo.id]), self._file)
            found.append(regions)
        return found


def _device(asked: str, number: int) -> str:
    """The device of a process: with several GPUs in sight, processes take them in turn."""
    if asked not in ("auto", "gpu", "cuda"):
        return asked
    import torch  # here, since exported models run without it

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % count}" if count > 1 else asked
