"""Copies an index from one place to another: a folder, a database, an object store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from objemb.checks import ArtefactMismatchError, listed
from objemb.index.collection import ImageCollection
from objemb.index.storage import tables
from objemb.search.indexing import COMMIT_SECONDS, published_on_interrupt
from objemb.structures import Described, SearchResult

#: Images whose rows are compared at the end, and those that are searched for, spread over the index.
COMPARED_IMAGES, COMPARED_SEARCHES = 100, 10
#: Hits that are compared, and how far their scores may differ: of rows of one type of numbers, and of two.
HITS, SCORE_DIFFERENCE, ROUNDED_DIFFERENCE = 10, 1e-4, 2e-3


@dataclass
class CopyReport:
    """What a copy did.

    Attributes:
        copied: Images that this run copied.
        kept: Images that an earlier, interrupted run had copied.
        compared: Images whose rows, boxes and metadata were compared at the end.
        searched: Images that were searched for in both, with the same answers.
    """

    copied: int = 0
    kept: int = 0
    compared: int = 0
    searched: int = 0


@dataclass(frozen=True)
class Copy:
    """Brings an index to another place, with rows, boxes, metadata, stamps and calibration.

    Attributes:
        source: The index; not changed.
        target: An index of the same model, empty or with images of ``source`` from an earlier, interrupted run.
        on_step: Called with the number of images processed since the last call.
    """

    source: ImageCollection
    target: ImageCollection
    on_step: Callable[[int], None] = lambda count: None

    def run(self) -> CopyReport:
        """Copy, and compare at the end. What was copied is published every half minute, and the next run resumes.

        Raises:
            ArtefactMismatchError: The target is of another model or kind of rows, or differs from the source in the
                end.
            ValueError: The target holds images that the source does not have.
        """
        self.target.check_same_kind(self.source)
        report, known = CopyReport(), self.target.stamps()
        others = known.keys() - self.source.stamps().keys()
        if others:
            raise ValueError(
                f"{self.target.address}: expected only images of {self.source.address}, found {len(others)} others: "
                f"{listed(sorted(others)[:3])}; copy to a new place, or delete them"
            )
        with self.target.writer() as writer, published_on_interrupt(writer):
            published = time.monotonic()
            for described, stamp in self.source.described():
                if stamp is not None and known.get(described.image) == stamp:
                    report.kept += 1
                else:
                    writer.add(described, stamp=stamp)
                    report.copied += 1
                self.on_step(1)
                if time.monotonic() - published > COMMIT_SECONDS:
                    writer.commit()
                    published = time.monotonic()
        if self.source.calibration is not None:
            self.target.set_calibration(self.source.calibration)
        self.target.refresh()
        self._compare(report)
        return report

    def _compare(self, report: CopyReport) -> None:
        """Compare counts, and a sample of images and of answers."""
        if len(self.target) != len(self.source):
            raise ArtefactMismatchError(
                f"{self.target.address}: expected {len(self.source)} images, as in {self.source.address}, found "
                f"{len(self.target)}"
            )
        images = sorted(self.source.stamps())
        spread = np.linspace(0, len(images) - 1, COMPARED_IMAGES if images else 0)
        sample = [images[place] for place in np.unique(spread.astype(int)).tolist()]
        pairs = list(zip(sample, self.source.get_many(sample), self.target.get_many(sample), strict=True))
        wrong = [image for image, mine, theirs in pairs if not self._same(mine, theirs)]
        if wrong:
            raise ArtefactMismatchError(
                f"{self.target.address}: expected the rows of {self.source.address}, found others of "
                f"{len(wrong)} of {len(sample)} images that were compared: {listed(wrong[:3])}"
            )
        report.compared = len(sample)
        queries = [mine for _, mine, _ in pairs[:: -(-len(pairs) // COMPARED_SEARCHES) or 1] if mine is not None]
        answers = [one.search_many(queries, HITS, exact=True, named=False) for one in (self.source, self.target)]
        like = self.source.schema == self.target.schema
        for query, mine, theirs in zip(queries, *answers, strict=True):
            if not same_answer(mine, theirs, SCORE_DIFFERENCE if like else ROUNDED_DIFFERENCE):
                raise ArtefactMismatchError(
                    f"{self.target.address}: expected the answer of {self.source.address} to a search for "
                    f"{query.image!r}, {_in_words(mine)}, found {_in_words(theirs)}"
                )
        report.searched = len(queries)

    def _same(self, one: Described | None, other: Described | None) -> bool:
        """Whether two images are stored alike, with numbers of the type that the target has."""
        if one is None or other is None:
            return False
        mine, theirs = (tables.entry(0, described, None, self.target.schema) for described in (one, other))
        arrays = [(mine.boxes, theirs.boxes), (mine.scores, theirs.scores)]
        arrays += [(mine.columns[name], theirs.columns[name]) for name in mine.columns]
        return (
            (mine.id, mine.size, mine.labels) == (theirs.id, theirs.size, theirs.labels)
            and dict(one.metadata) == dict(other.metadata)
            and all(np.array_equal(a, b) for a, b in arrays)
        )


def same_answer(one: SearchResult, other: SearchResult, most: float = SCORE_DIFFERENCE) -> bool:
    """Whether two answers have scores that differ by ``most``, and the same images apart from those that tie."""
    first, second = ([hit.score for hit in answer.hits] for answer in (one, other))
    if len(first) != len(second) or not np.allclose(first, second, rtol=0, atol=most):
        return False
    last = first[-1] if first else 0.0
    mine, theirs = ({hit.image: hit.score for hit in answer.hits} for answer in (one, other))
    images = mine.keys() | theirs.keys()
    # an image that is in one answer alone has the score of the last one
    return all(abs(mine.get(image, last) - theirs.get(image, last)) <= most for image in images)


def _in_words(answer: SearchResult) -> str:
    return ", ".join(f"{hit.image} ({hit.score:.4f})" for hit in answer.hits[:3]) or "no image"
