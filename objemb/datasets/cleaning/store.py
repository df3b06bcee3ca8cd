"""Features of photos and results of matching on the disk, so that a job that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from objemb.datasets.cleaning.pairs import TILE, VerifiedPairs, match_photos
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.disk import replacing
from objemb.images import UnreadableImageError, read_photo
from objemb.local_features.sift import Sift
from objemb.structures import LocalFeatures
from objemb.types import AnyArray, Float32Array, Int64Array

#: Names of the arrays of a photo's features.
FEATURE_ARRAYS = ("size", "points", "sides", "vectors")
#: Errors of reading a file of arrays that is damaged.
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class StoredPhoto:
    """A photo and the name of its features in the store.

    Attributes:
        path: Absolute path of its file.
        key: Hexadecimal digits that depend on the path, on size and time of the file, and on how features are found.
    """

    path: str
    key: str

    @staticmethod
    def of(path: str | Path, settings: CleaningSettings) -> StoredPhoto:
        """The photo at a path; one that does not exist gets a key, too, and is reported when it is read."""
        place = os.path.abspath(path)
        try:
            status = os.stat(place)
            facts = (place, status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            facts = (place, -1, -1)
        return StoredPhoto(place, _digest(repr((facts, settings.of_features))))


@dataclass(frozen=True, eq=False)
class MatchedTile:
    """The result of matching some pairs.

    Attributes:
        counts: int64 ``(n,)``: inliers of every pair, 0 where there were too few matches.
        verified: The pairs that count, with numbers of photos of their class.
    """

    counts: Int64Array
    verified: VerifiedPairs


class FeatureStore:
    """Reads, computes and keeps features and matches; one in each process.

    Args:
        folder: Folder of the store; several processes may share it.
        settings: How photos are matched.
    """

    def __init__(self, folder: Path, settings: CleaningSettings) -> None:
        self.folder, self.settings = folder, settings
        self._extractor = Sift(size=settings.size, count=settings.features, enlarge=settings.enlarge)
        self._recent: OrderedDict[str, LocalFeatures] = OrderedDict()

    def find_features(self, photo: StoredPhoto) -> tuple[int, int] | str:
        """Make sure that the features of a photo are in the store.

        Returns:
            Height and width of the photo, or why it cannot be used.
        """
        size = _read(self._file("features", photo.key), ("size",))
        if size is None:
            try:
                return self._compute(photo).size
            except UnreadableImageError as error:
                return error.reason
        height, width = size["size"].tolist()
        return height, width

    def features(self, photo: StoredPhoto) -> LocalFeatures:
        """The features of a photo, with vectors to about 8 bits.

        Raises:
            UnreadableImageError: They are not in the store, and the photo cannot be read.
        """
        if photo.key not in self._recent:
            arrays = _read(self._file("features", photo.key), FEATURE_ARRAYS)
            self._recent[photo.key] = self._compute(photo) if arrays is None else _unpacked(arrays)
            while len(self._recent) > 2 * TILE:
                self._recent.popitem(last=False)
        self._recent.move_to_end(photo.key)
        return self._recent[photo.key]

    def vectors(
        self,
        photos: Sequence[StoredPhoto],
        fingerprint: str,
        describe: Callable[[Sequence[str]], Mapping[str, Float32Array]],
    ) -> tuple[Int64Array, Float32Array]:
        """Global descriptors of the photos of a class.

        Args:
            photos: The photos.
            fingerprint: Text that identifies ``describe``.
            describe: Gives unit vectors of photos by path; it may leave photos out.

        Returns:
            int64 ``(n,)``: numbers of the photos that have a vector, ascending, and float32 ``(n, D)``.
        """
        file = self._file("vectors", _digest(" ".join([fingerprint, *(photo.key for photo in photos)])))
        arrays = _read(file)
        if arrays is None:
            by_path = describe([photo.path for photo in photos])
            known = [number for number, photo in enumerate(photos) if photo.path in by_path]
            rows = [by_path[photos[number].path] for number in known]
            arrays = {"known": np.array(known, np.int64), "vectors": np.stack(rows) if rows else np.zeros((0, 1))}
            _write(file, arrays)
        return arrays["known"], arrays["vectors"].astype(np.float32, copy=False)

    def match(self, photos: Sequence[StoredPhoto], pairs: Int64Array) -> MatchedTile:
        """Match pairs of photos, or read the result of an earlier job.

        Args:
            photos: The photos of a class.
            pairs: int64 ``(n, 2)``: numbers of photos. The store knows pairs by their photos, not by their numbers.
        """
        keys = "".join(photos[n].key for n in pairs.ravel().tolist())
        file = self._file("matches", _digest(f"{keys} {self.settings.of_pairs!r}"))
        arrays = _read(file)
        if arrays is None:
            arrays = self._matched([(photos[a], photos[b]) for a, b in pairs.tolist()])
            _write(file, arrays)
        rows = arrays["rows"].astype(np.int64)
        verified = VerifiedPairs(
            pairs[rows], arrays["counts"][rows].astype(np.int64), arrays["affines"], arrays["boxes"]
        )
        return MatchedTile(arrays["counts"].astype(np.int64), verified)

    def _matched(self, pairs: Sequence[tuple[StoredPhoto, StoredPhoto]]) -> dict[str, AnyArray]:
        """Inliers of all pairs, and the ``rows`` of those that count with their maps and boxes."""
        counts = np.zeros(len(pairs), np.int32)
        rows, affines, boxes = [], [], []
        for row, (first, second) in enumerate(pairs):
            agreement = match_photos(self.features(first), self.features(second), self.settings)
            counts[row] = agreement.inliers
            if agreement.affine is not None:
                rows.append(row)
                affines.append(agreement.affine)
                boxes.append(agreement.boxes)
        return {
            "counts": counts,
            "rows": np.array(rows, np.int32),
            "affines": np.array(affines).reshape(-1, 2, 3),
            "boxes": np.array(boxes, np.float32).reshape(-1, 2, 4),
        }

    def _compute(self, photo: StoredPhoto) -> LocalFeatures:
        features = self._extractor.extract([read_photo(photo.path, side=self._extractor.decode_side())])[0]
        arrays = _packed(features)
        _write(self._file("features", photo.key), arrays)
        return _unpacked(arrays)

    def _file(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}.npz"


def _packed(features: LocalFeatures) -> dict[str, AnyArray]:
    """Points, and vectors as bytes: a quarter of the space. RootSIFT has no negative numbers; rounding them to steps of
    1/255 of the largest one changes distances by about 0.01, while those of matches are 0.3 and more."""
    largest = max(float(features.vectors.max(initial=0)), 1e-12)
    return {
        "size": np.array(features.size, np.int64),
        "points": features.points,
        "sides": features.sides,
        "vectors": (features.vectors * (255 / largest)).round().astype(np.uint8),
    }


def _unpacked(arrays: dict[str, AnyArray]) -> LocalFeatures:
    vectors = arrays["vectors"].astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    height, width = arrays["size"].tolist()
    return LocalFeatures((height, width), arrays["points"], vectors, sides=arrays["sides"])


def _read(file: Path, names: Sequence[str] | None = None) -> dict[str, AnyArray] | None:
    """Some arrays of a file, by default all; None if there is no file, or if it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names or stored.files}
    except DAMAGE:
        return None


def _write(file: Path, arrays: dict[str, AnyArray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes the keys for those of options


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
