"""What is known of a class once its photos were matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objemb.datasets.cleaning.boxes import ObjectBoxes, object_boxes
from objemb.datasets.cleaning.graph import chosen_views, connected_photos
from objemb.datasets.cleaning.pairs import VerifiedPairs
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.datasets.cleaning.store import MatchedTile, StoredPhoto
from objemb.types import Int64Array


@dataclass(frozen=True)
class PairExample:
    """A pair of photos to show.

    Attributes:
        first, second: Numbers of the photos.
        inliers: Number of features that agree.
    """

    first: int
    second: int
    inliers: int


@dataclass(frozen=True, eq=False)
class CleanedClass:
    """A class after cleaning.

    Attributes:
        name: Name of the class.
        photos: Its readable photos.
        sizes: int64 ``(N, 2)``: their heights and widths.
        views: Numbers of the kept photos, int64 ascending: one array for each view, the largest first.
        group_sizes: int64 ``(N,)``: number of photos in the component of each photo, itself included.
        tried: Number of pairs that were matched.
        edges: Number of pairs that count.
        best: int64 ``(N,)``: the most inliers of the pairs of a photo; 0 where no pair had enough matches.
        boxes: Where the common object is; the whole photo for photos that are dropped.
        strongest, weakest: The pairs of kept photos with the most and the fewest inliers; None without kept photos.
        dropped: The dropped photo with the most inliers, with its partner; None if no dropped photo has any.
    """

    name: str
    photos: Sequence[StoredPhoto]
    sizes: Int64Array
    views: Sequence[Int64Array]
    group_sizes: Int64Array
    tried: int
    edges: int
    best: Int64Array
    boxes: ObjectBoxes
    strongest: PairExample | None
    weakest: PairExample | None
    dropped: PairExample | None

    @property
    def kept(self) -> int:
        """Number of kept photos."""
        return sum(map(len, self.views))

    def instances(self) -> list[str | None]:
        """The instance of each photo: the name of the class in the largest view, ``NAME#2`` in the second, and so on;
        None for photos that are dropped."""
        names: list[str | None] = [None] * len(self.photos)
        for number, view in enumerate(self.views, 1):
            for photo in view.tolist():
                names[photo] = self.name if number == 1 else f"{self.name}#{number}"
        return names

    def why_dropped(self, photo: int) -> str:
        """Why a photo is not kept, in a few words."""
        if (size := int(self.group_sizes[photo])) > 1:
            return f"in a group of {size} photos that is not kept"
        best = int(self.best[photo])
        return f"at most {best} features agree with another photo" if best else "no photo has enough matches with it"


class ClassMatches:
    """Collects the results of matching the photos of a class, until :meth:`cleaned` makes the choice.

    Args:
        name: Name of the class.
        photos: Its readable photos.
        sizes: Their heights and widths.
    """

    def __init__(self, name: str, photos: Sequence[StoredPhoto], sizes: Sequence[tuple[int, int]]) -> None:
        self.name, self.photos = name, photos
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self.tried = 0
        self._verified: list[VerifiedPairs] = []
        self._best, self._partners = np.zeros((2, len(photos)), np.int64)

    def add(self, pairs: Int64Array, tile: MatchedTile) -> None:
        """Take the result of some pairs, int64 ``(n, 2)``, into account."""
        self.tried += len(pairs)
        self._verified.append(tile.verified)
        photos, others = np.concatenate([pairs, pairs[:, ::-1]]).T
        counts = np.tile(tile.counts, 2)
        order = np.argsort(counts, kind="stable")  # of several pairs of a photo, the best is assigned last
        order = order[counts[order] > self._best[photos[order]]]
        self._best[photos[order]], self._partners[photos[order]] = counts[order], others[order]

    def cleaned(self, settings: CleaningSettings) -> CleanedClass:
        """The photos to keep, with their boxes."""
        verified = VerifiedPairs.cat(self._verified)
        groups = connected_photos(len(self.photos), verified.photos)
        views = chosen_views(groups, settings.smallest_view)
        group_sizes = np.zeros(len(self.photos), np.int64)
        for group in groups:
            group_sizes[group] = len(group)
        kept = np.zeros(len(self.photos), bool)
        for view in views:
            kept[view] = True
        inside = verified.of(kept[verified.photos[:, 0]])
        ranked = np.argsort(-inside.inliers, kind="stable")
        left_out = np.where(kept, -1, self._best)
        worst = int(left_out.argmax()) if len(left_out) else 0
        return CleanedClass(
            self.name,
            self.photos,
            self.sizes,
            views,
            group_sizes,
            self.tried,
            len(verified),
            self._best,
            object_boxes(self.sizes, inside),
            strongest=_example(inside, ranked[:1]),
            weakest=_example(inside, ranked[1:][-1:]),
            dropped=PairExample(worst, int(self._partners[worst]), int(left_out[worst]))
            if len(left_out) and left_out[worst] > 0
            else None,
        )


def _example(pairs: VerifiedPairs, rows: Int64Array) -> PairExample | None:
    """The pair of the only row, if there is one."""
    if not len(rows):
        return None
    first, second = pairs.photos[rows[0]].tolist()
    return PairExample(first, second, int(pairs.inliers[rows[0]]))
