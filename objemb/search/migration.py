"""Migration: all photos of an index described anew by another model, while the index goes on answering."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from objemb.checks import ArtefactMismatchError, IndexFolderError, IndexLockedError
from objemb.detectors.base import Detector
from objemb.images.decode import MAX_PIXELS
from objemb.images.names import printable
from objemb.images.object_stores import key_of, versions_of
from objemb.images.sources import ImageRef, SkippedImage
from objemb.index.collection import ImageCollection, ImageWriter
from objemb.index.storage.snapshot import StoredImage
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.models.base import EmbeddingModel
from objemb.models.row_schema import row_schema
from objemb.search.approximate import build_approximate
from objemb.search.calibration import calibrate_again
from objemb.search.indexing import (
    VERSIONS_AT_ONCE,
    AskedRegions,
    added,
    asked_regions,
    emptied,
    indexed_photo,
    photo_object,
    photo_path,
    published_on_interrupt,
)
from objemb.structures import Photo, Regions

#: Seconds between attempts to publish while another writer is at work.
WAIT_SECONDS = 1.0
#: When a larger share of the photos is left out, the old generation stays unless that is forced.
MAX_LEFT_OUT = 0.5


@dataclass
class MigrationReport:
    """Numbers of images of a migration.

    Attributes:
        described: Images that this run described.
        kept: Images that an earlier, interrupted run had described.
        given: Those among the described images whose boxes came from a file, and stayed.
        left_out: Images that the new generation does not have.
    """

    described: int = 0
    kept: int = 0
    given: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Migration:
    """Replace the generation of an index by one of another model.

    Photos are opened at the paths, or the addresses of object stores, with which they were indexed. Boxes that came
    from a file stay as they are; all others are found by the new model. A photo that is gone, or has changed since it
    was indexed, is left out.

    Attributes:
        index: The index.
        model: The new model.
        batch_size: Photos per batch.
        workers: Number of workers that decode photos.
        max_pixels: Leave out photos with more pixels.
        keep: Whether the old generation is kept.
        force: Whether to publish even if most photos, or all of a folder, are left out.
        on_start: Called when this run holds the lock of the next generation.
        on_step: Called with the number of photos processed since the last call.
        on_skip: Called with each photo that is left out.
        on_note: Called with messages.
    """

    index: ImageCollection
    model: EmbeddingModel
    batch_size: int = 8
    workers: int = 2
    max_pixels: int = MAX_PIXELS
    keep: bool = True
    force: bool = False
    on_start: Callable[[], None] = lambda: None
    on_step: Callable[[int], None] = lambda count: None
    on_skip: Callable[[SkippedImage], None] = lambda skipped: None
    on_note: Callable[[str], None] = lambda text: None
    _left_out: dict[str, tuple[str | None, SkippedImage]] = field(default_factory=dict, init=False, repr=False)

    def run(self) -> MigrationReport:
        """Describe all photos and publish the new generation. The next run resumes one that is killed or interrupted.

        Photos that are added to the index, changed or deleted meanwhile are taken in. While another writer holds the
        index, the publication waits for it.

        Raises:
            ArtefactMismatchError: The index is of this model already, or a migration to another model is under way.
            IndexFolderError: The generation before the last migration is still kept.
            IndexLockedError: The same migration is running elsewhere.
            ValueError: Most photos, or all of a folder, would be left out. Nothing is published; a run with ``force``
                goes on from here.
        """
        made = self._opened()
        report = MigrationReport(kept=len(made))
        compared, waiting = None, False
        while True:
            self.index.refresh()
            if self.index.state != compared:
                with made.writer() as writer:
                    if compared is None:
                        self.on_start()
                        self.on_step(report.kept)
                    with published_on_interrupt(writer):
                        self._round(made, writer, report)
                compared = self.index.state
                continue  # more photos may have been added in the time that this took

            self._check_left_out()
            engine = self.index.engine if made.schema == self.index.schema else None
            build_approximate(made, engine, self.on_note)
            if not waiting:
                self._calibrate(made)
            try:
                if self.index.generations.switch(keep=self.keep):
                    report.left_out = len(self._left_out)
                    return report
            except IndexLockedError as error:
                if not waiting:
                    self.on_note(f"note: waiting for another writer to end: {error}")
                waiting = True
                time.sleep(WAIT_SECONDS)

    def _opened(self) -> ImageCollection:
        """The next generation, which an earlier run may have begun."""
        path, model, generations = self.index.address, self.model, self.index.generations
        if self.index.fingerprint == model.fingerprint:
            raise ArtefactMismatchError(
                f"{path}: expected another model than that of the index, found the same fingerprint "
                f"{model.fingerprint!r}"
            )
        generations.tidy()
        kept = generations.kept()
        if self.keep and kept is not None:
            raise IndexFolderError(
                f"{kept}: expected no generation that is still kept, found that of an earlier migration; "
                f"'objemb migrate {path} --drop-old' deletes it"
            )
        begun = generations.begun()
        if begun is None:
            dtype = self.index.schema.dtype if isinstance(self.index.schema, UnitVectors) else None
            schema = row_schema(model, dtype if model.kernel is None else None)
            return generations.begin(schema, model.fingerprint, model.about)
        if begun.fingerprint != model.fingerprint:
            raise ArtefactMismatchError(
                f"{path}: expected the model with fingerprint {begun.fingerprint!r}, to which a migration is under way "
                f"(at {(begun.model or {}).get('path')}), found {model.fingerprint!r}; finish it with that model, or "
                f"'objemb migrate {path} --cancel' deletes what it has described"
            )
        return begun

    def _round(self, made: ImageCollection, writer: ImageWriter, report: MigrationReport) -> None:
        """Bring the next generation up to the state of the index that is open."""
        known = made.stamps()
        boxes_stored = self.index.schema.name != UnitVectors.name or self._has_boxes()
        stamps: dict[str, str] = {}

        def skip(skipped: SkippedImage) -> None:
            self._leave_out(skipped, stamps.pop(skipped.id, None))

        work = self._to_do(known, boxes_stored)
        for asked, images in itertools.groupby(work, key=lambda one: one[0]):
            described = self.model.stream(
                _refs(images, stamps),
                batch_size=self.batch_size,
                workers=self.workers,
                boxes=_StoredRegions(self.index) if asked.given else None,
                max_regions=asked.most,
                max_pixels=self.max_pixels,
                on_skip=skip,
            )
            for image, _ in added(writer, described, stamps):
                self._left_out.pop(image, None)
                report.described += 1
                report.given += asked.given
                self.on_step(1)
        # what is left in ``known`` is no longer in the index
        writer.delete([*known, *(image for image in self._left_out if image in writer)])

    def _has_boxes(self) -> bool:
        """Whether an image has more rows than that of the whole photo."""
        facts = self.index.info()
        return bool(facts["regions"] > facts["images"])

    def _to_do(self, known: dict[str, str | None], boxes_stored: bool) -> Iterator[tuple[AskedRegions, str, ImageRef]]:
        """Images that the next generation does not have in their present state, with their stamps.

        Args:
            known: Stamps of the next generation; those of images that the index has are taken out.
            boxes_stored: Whether given boxes can be read from the index.
        """
        images = (
            stored
            for stored in self.index.images()
            if (known.pop(stored.id, None) != stored.stamp or stored.stamp is None)
            and (stored.id not in self._left_out or self._left_out[stored.id][0] != stored.stamp)
        )
        while some := list(itertools.islice(images, VERSIONS_AT_ONCE)):
            for stored, (photo, reason) in zip(some, _photos_of(some), strict=True):
                if photo is None or stored.stamp is None:
                    self._leave_out(SkippedImage(stored.id, _place(stored.stamp), reason), stored.stamp)
                    continue
                asked = asked_regions(stored.stamp, stored.metadata)
                if asked.given and not boxes_stored:
                    reason = "its boxes came from a file, and an index with one row per photo does not hold them"
                    self._leave_out(SkippedImage(stored.id, photo.place, reason), stored.stamp)
                else:
                    yield asked, stored.stamp, photo

    def _leave_out(self, skipped: SkippedImage, stamp: str | None) -> None:
        self._left_out[skipped.id] = stamp, skipped
        self.on_step(1)
        self.on_skip(skipped)

    def _calibrate(self, made: ImageCollection) -> None:
        """Calibrate the scores of the next generation as those of the old one were: scores of two models differ."""
        calibration = self.index.calibration
        if calibration is None:
            return
        self.on_note("calibrating the scores anew")
        try:
            calibrate_again(made, calibration, self.model)
        except (ValueError, OSError, ArtefactMismatchError) as error:
            self.on_note(f"note: the scores of the new generation are not calibrated: {error}")

    def _check_left_out(self) -> None:
        """Raise ``ValueError`` if it looks as if a drive were missing."""
        for image in [image for image in self._left_out if image not in self.index]:
            del self._left_out[image]
        if self.force or not self._left_out:
            return
        gone = (photo_path(stamp) for stamp, _ in self._left_out.values())
        why = emptied(path for path in gone if path is not None)
        if why is not None:
            why += "; is a drive not mounted?"
        elif len(self._left_out) > MAX_LEFT_OUT * len(self.index):
            first = next(iter(self._left_out.values()))[1]
            why = f"more than half of all, the first is {first.id}: {first.reason}"
        if why is not None:
            raise ValueError(
                f"{self.index.address}: {len(self._left_out)} of {len(self.index)} images would be left out ({why}). "
                "The index is unchanged, and what was described is kept; add --force (force=True) to publish without "
                "them"
            )


def _photos_of(images: Sequence[StoredImage]) -> list[tuple[ImageRef | None, str]]:
    """The photo of each image as it was when it was indexed, or why it is not there any more."""
    objects = [photo_object(stored.stamp) for stored in images]
    addresses = [there[0] for there in objects if there is not None]
    versions = dict(zip(addresses, versions_of(addresses), strict=True)) if addresses else {}
    found: list[tuple[ImageRef | None, str]] = []
    for stored, there in zip(images, objects, strict=True):
        path, photo = photo_path(stored.stamp), None
        exists = versions[there[0]] != "" if there is not None else path is not None and path.exists()
        reason = "changed since it was indexed" if exists else "removed since it was indexed"
        if there is not None:
            address, version = there
            if exists and versions[address] == version:
                photo = ImageRef(stored.id, Path(key_of(address)), stored.metadata, address, version)
        elif path is None:
            reason = "its photo is not known, since 'objemb index' did not add it"
        elif indexed_photo(stored.stamp) is not None:
            photo = ImageRef(stored.id, path, stored.metadata)
        found.append((photo, reason))
    return found


def _place(stamp: str | None) -> str:
    """Where a photo was when it was indexed, for messages; empty if that is not known."""
    there = photo_object(stamp)
    return printable(there[0] if there is not None else str(photo_path(stamp) or ""))


def _refs(images: Iterator[tuple[AskedRegions, str, ImageRef]], stamps: dict[str, str]) -> Iterator[ImageRef]:
    """The images to describe; records the stamp of each in ``stamps``."""
    for _, stamp, ref in images:
        stamps[ref.id] = stamp
        yield ref


class _StoredRegions(Detector):
    """The boxes of an index, which were given when it was made, without the whole photo."""

    def __init__(self, index: ImageCollection) -> None:
        self._index = index

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """The stored boxes of photos of the index."""
        return [self._of(photo) for photo in photos]

    def _of(self, photo: Photo) -> Regions:
        stored = self._index.get(photo.id)
        if stored is None or stored.regions.size != photo.size:
            found = "nothing" if stored is None else f"boxes of a photo of (height, width) {stored.regions.size}"
            raise ValueError(f"{photo.id}: expected boxes of a photo of (height, width) {photo.size}, found {found}")
        regions = stored.regions
        whole = Regions.whole(photo.size).boxes
        return regions[1:] if len(regions) and (regions.boxes[0] == whole[0]).all() else regions
