"""Incremental indexing: describes new and changed photos, and publishes them every half minute."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from objemb.checks import ObjembError
from objemb.detectors.base import Detector
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.disk import file_sha256
from objemb.images.decode import MAX_PIXELS
from objemb.images.object_stores import versions_of
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.index.collection import ImageCollection, ImageWriter
from objemb.models.base import EmbeddingModel
from objemb.search.block_stream import BlockFolder, BlockStream, Distribution
from objemb.search.blocks import Describing
from objemb.search.kinds import check_model
from objemb.structures import Described, Scalar

#: Seconds between publications, the most work that a killed run loses.
COMMIT_SECONDS = 30.0
#: Photos that are looked up at a time, before those to be described are chosen.
VERSIONS_AT_ONCE = 256
#: The largest maximum of boxes per photo that is recognised in a stamp, which holds a digest of it: trying all takes
#: 2 ms.
MAX_REGIONS = 1000


@dataclass
class Report:
    """Numbers of images processed by a run."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    pruned: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Job:
    """Bring an index up to date with photos.

    Attributes:
        index: The index, made with the same model.
        model: The model that describes the photos.
        sources: Folders, list files, tables, COCO files, images, addresses of object stores.
        boxes: Source of boxes, None for the model's own regions.
        boxes_file: The file of ``boxes``; if it changes, photos are described again.
        max_regions: Maximum number of boxes per photo.
        batch_size: Photos per batch.
        workers: Number of workers that decode photos.
        max_pixels: Skip photos with more pixels.
        prune: Whether to remove images whose file no longer exists.
        force: Whether to prune even if a drive may be missing.
        on: Describe in other processes; None for this one.
        on_start: Called when this run holds the index's lock, before anything else.
        on_step: Called with the number of photos processed since the last call.
        on_skip: Called with each photo that could not be indexed.
    """

    index: ImageCollection
    model: EmbeddingModel
    sources: Sequence[Path | str]
    boxes: Detector | None = None
    boxes_file: Path | None = None
    max_regions: int | None = None
    batch_size: int = 8
    workers: int = 2
    max_pixels: int = MAX_PIXELS
    prune: bool = False
    force: bool = False
    on: Distribution | None = None
    on_start: Callable[[], None] = lambda: None
    on_step: Callable[[int], None] = lambda count: None
    on_skip: Callable[[SkippedImage], None] = lambda skipped: None

    def run(self) -> Report:
        """Describe and add new and changed photos. On Ctrl-C, everything described so far is published before
        ``KeyboardInterrupt`` is raised again.

        Raises:
            ArtefactMismatchError: The index was made with another model.
            ObjembError: Photos that were described elsewhere are missing, or processes keep dying.
            ValueError: Pruning would remove photos of a folder that is now empty. Everything else is published.
        """
        check_model(self.index, self.model.gives, self.model.settings, self.model.fingerprint)
        report, before = Report(), len(self.index)
        known = self.index.stamps()  # stamps of images that this run has not read yet
        with self.index.writer() as writer:
            self.on_start()
            with published_on_interrupt(writer):
                self._add(writer, known, report)
                if self.prune:
                    report.pruned = self._prune(writer, known, report)
        expected = before + report.added - report.pruned
        if self.on is not None and len(self.index) < expected:
            raise ObjembError(
                f"{self.index.address}: expected {expected} images after this run, found {len(self.index)}"
            )
        return report

    def _add(self, writer: ImageWriter, known: dict[str, str | None], report: Report) -> None:
        def skip(skipped: SkippedImage) -> None:
            stamps.pop(skipped.id, None)
            report.skipped += 1
            self.on_step(1)
            self.on_skip(skipped)

        stamps: dict[str, str] = {}
        to_do = self._to_do(known, stamps, report)
        blocks = None if self.on is None else self._blocks(self.on, skip)
        described: Iterator[Described]
        if blocks is None:
            described = self.model.stream(
                to_do,
                batch_size=self.batch_size,
                workers=self.workers,
                boxes=self.boxes,
                max_regions=self.max_regions,
                max_pixels=self.max_pixels,
                on_skip=skip,
            )
        else:
            described = blocks.run(to_do, stamps)
        for one, updated in added(writer, described, stamps, _nothing if blocks is None else blocks.committed):
            known.pop(one, None)
            report.updated += updated
            report.added += not updated
            self.on_step(1)
        if blocks is not None:
            writer.commit()
            blocks.close()

    def _blocks(self, on: Distribution, skip: Callable[[SkippedImage], None]) -> BlockStream:
        """What describes photos in blocks, with the settings of this job."""
        if self.model.path is None:
            raise ValueError("on: expected a model that other processes can open at its path, found one without a path")
        if not isinstance(self.boxes, StoredBoxes | None):
            raise ValueError(
                f"on: expected the regions of the model, or boxes from a file, found {type(self.boxes).__name__}"
            )
        dtype = self.index.schema.to_json().get("dtype")
        how = Describing(
            model=str(self.model.path.absolute()),
            fingerprint=self.model.fingerprint,
            device=on.device,
            precision=on.precision,
            runtime=on.runtime,
            threads=on.threads or on.executor.threads,
            dtype=None if dtype is None else str(dtype),
            batch_size=self.batch_size,
            workers=self.workers,
            max_regions=self.max_regions,
            max_pixels=self.max_pixels,
            boxes=None if self.boxes is None else self.boxes.about,
        )
        folder = BlockFolder(on.folder)
        return BlockStream(
            on.executor, how, self._regions_stamp(), folder, self.index.schema, on.size, skip, self.boxes
        )

    def _to_do(
        self, known: dict[str, str | None], stamps: dict[str, str], report: Report
    ) -> Iterator[ImageRef | SkippedImage]:
        """New and changed images; records the stamp of each in ``stamps``."""
        regions = self._regions_stamp()
        for image in _with_versions(find_images(self.sources)):
            if isinstance(image, SkippedImage):
                yield image
                continue
            stamp, before = _stamp(image, regions), known.get(image.id)
            if stamp == before:
                del known[image.id]
                report.unchanged += 1
                self.on_step(1)
                continue
            if taken := None if image.address else _still_another_photo(before, image.path):
                reason = f"its id belongs to {taken}, indexed before; index both in one command to keep them apart"
                yield SkippedImage(image.id, image.place, reason)
                continue
            stamps[image.id] = stamp
            yield image

    def _regions_stamp(self) -> str:
        """Settings that determine the regions besides the model; if they change, photos are described again."""
        return _regions_stamp("" if self.boxes_file is None else file_sha256(self.boxes_file), self.max_regions)

    def _prune(self, writer: ImageWriter, unread: dict[str, str | None], report: Report) -> int:
        """Remove images that were not read and whose file no longer exists."""
        paths = {image: photo_path(stamp) for image, stamp in unread.items()}
        gone = {image: path for image, path in paths.items() if path is not None and _vanished(path)}
        if gone and not self.force:
            indexed = report.added + report.updated + report.unchanged
            why = emptied(gone.values()) if indexed else "not one photo was found"
            if why is not None:
                writer.commit()
                raise ValueError(
                    f"--prune: {why}, and {len(gone)} images would be removed; is a drive not mounted? "
                    "Nothing was removed; add --force to remove them"
                )
        writer.delete(gone)
        return len(gone)


def _nothing() -> None:
    """Nothing is to be done."""


def added(
    writer: ImageWriter,
    described: Iterable[Described],
    stamps: dict[str, str],
    committed: Callable[[], None] = _nothing,
) -> Iterator[tuple[str, bool]]:
    """Add images to an index as they are described, and publish them every half minute.

    Args:
        writer: An open writer of the index.
        described: The images.
        stamps: The stamp of each by id; taken out when it is added.
        committed: Called after each publication.

    Yields:
        The id of each image, and whether one of this id was in the index.
    """
    published = time.monotonic()
    for one in described:
        updated = one.image in writer
        writer.add(one, stamp=stamps.pop(one.image))
        yield one.image, updated
        if time.monotonic() - published > COMMIT_SECONDS:
            writer.commit()
            committed()
            published = time.monotonic()


@contextlib.contextmanager
def published_on_interrupt(writer: ImageWriter) -> Iterator[None]:
    """Publish what was added when the block ends by Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):  # the writer itself may have been interrupted
            writer.commit()
        raise


@dataclass(frozen=True)
class AskedRegions:
    """How the regions of an indexed image were chosen, besides its model.

    Attributes:
        given: Whether its boxes came from a file.
        most: Maximum number of boxes of the model's detector, or None.
    """

    given: bool
    most: int | None = None


def asked_regions(stamp: str, metadata: Mapping[str, Scalar]) -> AskedRegions:
    """How the regions of an image were chosen, by its stamp: it is that of a model's own regions, for a maximum of at
    most :data:`MAX_REGIONS`, or else that of boxes from a file."""
    extra, values = json.loads(stamp).get("extra"), json.dumps(dict(metadata), sort_keys=True)
    for most in (None, *range(MAX_REGIONS + 1)):
        if _extra(_regions_stamp("", most), values) == extra:
            return AskedRegions(False, most)
    return AskedRegions(True)


def photo_path(stamp: str | None) -> Path | None:
    """Path of an image's photo when it was indexed; None if the index was not made by this job."""
    try:
        return Path(json.loads(stamp or "")["path"])
    except (ValueError, TypeError, KeyError):
        return None


def photo_object(stamp: str | None) -> tuple[str, str] | None:
    """Address and version of an image's photo in an object store when it was indexed; None if it was not in one.

    The index may be from an untrusted source: a photo is opened only if it still has this version.
    """
    try:
        known = json.loads(stamp or "")
        return str(known["address"]), str(known["version"])
    except (ValueError, TypeError, KeyError):
        return None


def indexed_photo(stamp: str | None) -> Path | None:
    """Path of an image's photo, if its size and modification time are those of when it was indexed; otherwise None.

    The index may be from an untrusted source and must not decide which files of this machine are opened and shown: to
    name one, it would have to contain its modification time to the nanosecond.
    """
    path = photo_path(stamp)
    if path is None:
        return None
    try:
        status, known = path.stat(), json.loads(stamp or "")
        same = (status.st_size, status.st_mtime_ns) == (known.get("size"), known.get("mtime_ns"))
    except (OSError, ValueError):
        return None
    return path if same else None


def _stamp(ref: ImageRef, regions: str) -> str:
    """The stamp of an image that was found with some metadata, described with some settings of its regions."""
    extra = _extra(regions, json.dumps(dict(ref.metadata), sort_keys=True))
    if ref.address:
        return json.dumps({"address": ref.address, "version": ref.version, "extra": extra})
    return stamp_of_file(ref.path, extra)


def _with_versions(images: Iterable[ImageRef | SkippedImage]) -> Iterator[ImageRef | SkippedImage]:
    """Images with the versions of those that a list names in object stores, which are asked many at a time."""
    found = iter(images)
    while some := list(islice(found, VERSIONS_AT_ONCE)):
        asked = [one.address for one in some if isinstance(one, ImageRef) and one.address and not one.version]
        versions = dict(zip(asked, versions_of(asked), strict=True)) if asked else {}
        for one in some:
            known = isinstance(one, ImageRef) and one.address in versions
            yield replace(one, version=versions[one.address]) if known and isinstance(one, ImageRef) else one


def stamp_of_file(path: Path, extra: str = "") -> str:
    """JSON with the path of a photo and the values by which a change is detected; ``extra`` is a further one."""
    try:
        status = path.stat()
        size, changed = status.st_size, status.st_mtime_ns
    except (OSError, ValueError):  # removed meanwhile, or not a valid path: it will be skipped
        size, changed = -1, -1
    return json.dumps({"path": str(path.absolute()), "size": size, "mtime_ns": changed, "extra": extra})


def own_regions(metadata: Mapping[str, Scalar]) -> str:
    """What a stamp knows of an image with some metadata whose regions were chosen by the model: ``extra`` of
    :func:`stamp_of_file`; see :func:`asked_regions`."""
    return _extra(_regions_stamp("", None), json.dumps(dict(metadata), sort_keys=True))


def _regions_stamp(digest: str, most: int | None) -> str:
    """What determines regions besides the model: the digest of a file of boxes, or none, and a maximum."""
    return f"boxes {digest} at most {most}"


def _extra(regions: str, metadata: str) -> str:
    """What a stamp knows of regions and of metadata, which are sorted JSON: 16 hexadecimal digits."""
    return hashlib.blake2b(f"[{json.dumps(regions)}, {metadata}]".encode(), digest_size=8).hexdigest()


def _still_another_photo(stamp: str | None, path: Path) -> Path | None:
    """Path of the photo indexed under the same id, if it is a different file that still exists."""
    before = photo_path(stamp)
    return before if before is not None and before != path.absolute() and not _vanished(before) else None


def ids_of(stamps: Mapping[str, str | None], photo: Path) -> list[str]:
    """Ids of a photo in an index that was made by this job; ``stamps`` are those of the index."""
    names = {json.dumps(name)[1:-1] for name in (photo.name, photo.resolve().name)}
    likely = ((i, s) for i, s in stamps.items() if s is not None and any(name in s for name in names))
    return [image for image, stamp in likely if _same_file(photo_path(stamp), photo)]


def _same_file(path: Path | None, other: Path) -> bool:
    try:
        return path is not None and path.samefile(other)
    except OSError:
        return False


def emptied(gone: Iterable[Path]) -> str | None:
    """A folder of one of these photos, or a folder above it, that exists but is empty: most likely the mount point of a
    missing drive, since deleted folders do not exist."""
    seen: set[Path] = set()
    for path in gone:
        for folder in path.parents:
            if folder in seen:
                break
            seen.add(folder)
            try:
                with os.scandir(folder) as entries:
                    if next(entries, None) is None:
                        return f"{folder} is empty"
            except FileNotFoundError:
                continue
            except OSError:  # it cannot be listed, so it may contain photos
                pass
            break
    return None


def _vanished(path: Path | None) -> bool:
    """Whether a photo certainly does not exist; False if this cannot be determined (no permission, a failed disk)."""
    try:
        return path is not None and not path.exists()
    except OSError:
        return False
