"""What the scores of an index mean: how many false hits a score lets one expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from objemb import checks
from objemb.ops.upper_tail import UpperTail


@dataclass(frozen=True)
class Calibration:
    """How the best scores of queries whose object is not in an index are distributed.

    Attributes:
        best: Distribution of the best score of one query row.
        queries: Number of query rows that it was fitted to.
        objects: Number of different objects, or photos, that these rows show.
        images: Number of images of the index at that time.
        next_image: Internal number of the first image that was added later.
        source: How it was made, to make it again: ``{"instance": column}``, or ``{"on": [paths]}``; and ``queries``.
    """

    best: UpperTail
    queries: int
    objects: int
    images: int
    next_image: int
    source: Mapping[str, object]

    def __post_init__(self) -> None:
        checks.whole("calibration.queries", self.queries)
        checks.whole("calibration.objects", self.objects)
        checks.whole("calibration.images", self.images)
        checks.whole("calibration.next_image", self.next_image, 0)
        if not isinstance(self.source, Mapping):
            raise TypeError(f"calibration.source: expected an object, found {self.source!r}")

    @property
    def least(self) -> float:
        """The smallest number of false images per query row that can be estimated: one over all rows that the
        distribution was fitted to. Fewer would be extrapolated to scores that hardly any row has reached."""
        return 1 / self.queries

    def expected_false(self, score: float, rows: int, images: int) -> float:
        """How many images that do not show the object are expected to score at least ``score``.

        High scores of different images are rare events, so their number is taken as Poisson distributed (Coles 2001,
        section 7.3): a row whose best score reaches ``score`` with probability P expects ``-log(1 - P)`` of them. That
        number grows with the rows of the query and the images of the index.

        Args:
            score: Score of a search without re-ranking.
            rows: Number of rows of the query, each of which may match.
            images: Number of images of the index that is searched, which may have grown.
        """
        reached = min(max(self.best.exceeded(score), self.least), 1 - self.least)
        return -math.log1p(-reached) * rows * images / self.images

    def fewest_estimable(self, rows: int, images: int) -> float:
        """The smallest number of false images that can be estimated; arguments as for :meth:`expected_false`."""
        return -math.log1p(-self.least) * rows * images / self.images

    def check_estimable(self, expected: float, rows: int, images: int) -> None:
        """Check that so small a number of false images can be estimated; other arguments as for :meth:`expected_false`.

        Raises:
            ValueError: It cannot; the message contains the smallest number that can.
        """
        fewest = self.fewest_estimable(rows, images)
        if expected < fewest:
            raise ValueError(
                f"at_most_false: expected at least {math.ceil(1e4 * fewest) / 1e4:g}, the fewest that a calibration "
                f"with {self.queries} boxes can estimate for a query with {rows}, found {expected:g}; calibrate with "
                "more boxes"
            )

    def score_of(self, expected: float, rows: int, images: int) -> float:
        """The score from which on ``expected`` false images are expected; others as for :meth:`expected_false`."""
        self.check_estimable(expected, rows, images)
        return self.best.value_of(-math.expm1(-expected * self.images / (rows * max(1, images))))

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        fit = {**asdict(self.best), "body": list(self.best.body)}
        counts = {
            "queries": self.queries,
            "objects": self.objects,
            "images": self.images,
            "next_image": self.next_image,
        }
        return {**fit, **counts, "source": dict(self.source)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Calibration:
        """A calibration from what :meth:`to_json` made."""
        best = UpperTail(*(data[field.name] for field in fields(UpperTail)))
        return Calibration(best, data["queries"], data["objects"], data["images"], data["next_image"], data["source"])
