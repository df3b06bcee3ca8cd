"""Changes of the index by requests: one writer, whose publications hold what has come meanwhile."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread

from objemb.checks import ArtefactMismatchError, IndexWriteError
from objemb.disk import write_whole
from objemb.images.kinds import kind_of
from objemb.index.collection import ImageWriter
from objemb.index.opening import open_index
from objemb.search.indexing import own_regions, photo_path, stamp_of_file
from objemb.serve.limits import Limits
from objemb.serve.problems import Problem, busy
from objemb.structures import Described

log = logging.getLogger(__name__)

#: Folder of uploaded photos below the folder of photos.
UPLOADS = "uploads"
#: Changes that are published together at most.
TOGETHER = 256
#: Seconds after which a change may be sent again while the model of a migrated index is being loaded.
MIGRATION_SECONDS = 5


@dataclass(frozen=True, eq=False)
class Change:
    """An image to write or to delete.

    Attributes:
        image: Its id.
        described: Its rows; None to delete it.
        content: Its encoded photo, None if that is not kept.
        fingerprint: Fingerprint of the model of the rows.
        given: Whether its boxes were given, rather than found by the model.
        done: Whether the image was in the index before; set once the change is published.
    """

    image: str
    described: Described | None = None
    content: bytes | None = None
    fingerprint: str | None = None
    given: bool = False
    done: Future[bool] = field(default_factory=Future)


class Writes:
    """Publishes changes on a thread of its own; those of the same time share a publication.

    A change is durable when its future is done: files and manifest have been synced.

    Args:
        index: Where the index lives.
        photos: Folder in which uploaded photos are kept, None to keep none.
        limits: ``queue`` of these.
        on_published: Called after each publication, before its changes are reported as done.
    """

    def __init__(self, index: str, photos: Path | None, limits: Limits, on_published: Callable[[], None]) -> None:
        self._index = open_index(index)
        self._uploads = None if photos is None else photos / UPLOADS
        self._limits = limits
        self._on_published = on_published
        self._queue: Queue[Change | None] = Queue(limits.queue)
        if self._uploads is not None:
            self._uploads.mkdir(exist_ok=True)
            self._remove_unnamed(self._uploads)
        self._thread = Thread(target=self._work, name="objemb-write", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> Future[bool]:
        """Queue a change, to add an image, to replace the one of the same id, or to delete it; what is done once it is
        published.

        Raises:
            Problem: The queue is full.
        """
        try:
            self._queue.put_nowait(change)
        except Full:
            raise busy("changes", self._limits.queue) from None
        return change.done

    def close(self) -> None:
        """Publish what was queued, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            changes = [self._queue.get()]
            with contextlib.suppress(Empty):
                while len(changes) < TOGETHER:
                    changes.append(self._queue.get_nowait())
            asked = [change for change in changes if change is not None]
            if asked:
                self._publish(asked)
            if None in changes:
                return

    def _publish(self, changes: list[Change]) -> None:
        written: list[Path] = []
        replaced: list[Path] = []
        before: dict[Change, bool] = {}
        try:
            self._follow_migration()
            with self._index.writer() as writer:
                # the state that the lock protects, also after publications of others
                self._index.refresh()
                places = {change.image: self._upload_of(change.image) for change in changes}
                for change in changes:
                    if change.described is not None and change.fingerprint != self._index.fingerprint:
                        change.done.set_exception(_replaced_model())
                        continue
                    try:
                        before[change] = self._apply(writer, change, written)
                    except (ValueError, TypeError) as error:
                        change.done.set_exception(error)
                        continue
                    replaced += [place for place in (places[change.image],) if place is not None]
        except Exception as error:
            self._remove(written)
            failure = _failure(error)
            for change in changes:
                if not change.done.done():
                    change.done.set_exception(failure)
            return
        named = {self._upload_of(change.image) for change in before}
        self._remove([place for place in (*replaced, *written) if place not in named])
        self._on_published()
        for change, was_there in before.items():
            change.done.set_result(was_there)

    def _follow_migration(self) -> None:
        """Open the index anew if it is of another model by now."""
        try:
            self._index.refresh()
        except ArtefactMismatchError:
            self._index = open_index(self._index.address)

    def _apply(self, writer: ImageWriter, change: Change, written: list[Path]) -> bool:
        was_there = change.image in writer
        if change.described is None:
            writer.delete([change.image])
            return was_there
        stamp = None
        if self._uploads is not None and change.content is not None:
            kind = kind_of(change.content) or "photo"
            place = self._uploads / f"{secrets.token_hex(16)}.{kind.lower()}"
            write_whole(place, change.content)
            written.append(place)
            stamp = stamp_of_file(place.resolve(), "" if change.given else own_regions(change.described.metadata))
        writer.add(change.described, stamp)
        return was_there

    def _upload_of(self, image: str) -> Path | None:
        """The uploaded photo of an image that is published, if there is one."""
        try:
            path = photo_path(self._index.stamp(image))
        except KeyError:
            return None
        ours = self._uploads is not None and path is not None and path.parent == self._uploads.resolve()
        return path if ours else None

    def _remove_unnamed(self, folder: Path) -> None:
        """Remove uploaded photos that no image names: those of changes that a kill has cut off."""
        named = {photo_path(stamp) for stamp in self._index.stamps().values()}
        self._remove([path for path in folder.resolve().iterdir() if path not in named])

    def _remove(self, places: list[Path]) -> None:
        for place in places:
            try:
                os.unlink(place)
            except OSError as error:
                log.warning("%s: an uploaded photo that is no longer needed cannot be removed: %s", place, error)


def _failure(error: Exception) -> Exception:
    """The problem that a writer's error is for a request."""
    if isinstance(error, ArtefactMismatchError):
        return _replaced_model()
    if isinstance(error, IndexWriteError):
        log.error("changes were not written: %s", error)
    return error


def _replaced_model() -> Problem:
    """The problem of a change that was described by another model than that of the index by now."""
    return Problem(
        503,
        "index: expected one of the model that described the photo, found one that was migrated to another model; try "
        "again once this is served, see /readyz",
        retry=MIGRATION_SECONDS,
    )
