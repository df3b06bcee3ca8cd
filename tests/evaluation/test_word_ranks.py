"""Rankings by visual words, against all pairs one by one."""

from __future__ import annotations

import numpy as np
import pytest

from objemb.evaluation.ranks import UNRANKED
from objemb.evaluation.word_ranks import WordRanking
from objemb.structures import ImageWords, MatchKernel, Regions, VisualWords, WordPlaces
from tests import slow_words as slow

DIM = 8
KERNEL = MatchKernel(words=12)


def random_words(name: str, seed: int, rows: int, places: WordPlaces | None = None) -> VisualWords:
    rng = np.random.default_rng(seed)
    words = [np.flatnonzero(rng.random(12) < 0.4) for _ in range(rows)]
    count = sum(map(len, words))
    regions = Regions([[n, 0, n + 10, 20] for n in range(rows)], (40, 50))
    return VisualWords(
        name,
        regions,
        DIM,
        np.repeat(np.arange(rows), [len(w) for w in words]),
        np.concatenate([np.zeros(0), *words]).astype(np.int32),
        np.packbits(rng.integers(0, 2, (count, DIM)), axis=1),
        rng.uniform(0.5, 2, count).astype(np.float32),
        rng.uniform(0.5, 2, rows).astype(np.float32),
        places,
    )


def blocks(words: VisualWords, row: int) -> slow.Blocks:
    return {
        int(words.words[n]): ((np.unpackbits(words.residuals[n]) * 2.0 - 1) / np.sqrt(DIM)).tolist()
        for n in np.flatnonzero(words.rows == row)
    }


def kernel(query: VisualWords, q: int, stored: VisualWords, r: int) -> float:
    weights = {int(w): float(x) for w, x, row in zip(query.words, query.weights, query.rows, strict=True) if row == q}
    mine, other = blocks(query, q), blocks(stored, r)
    total = 0.0
    for word in mine.keys() & other.keys():
        u = sum(a * b for a, b in zip(mine[word], other[word], strict=True))
        total += weights[word] * slow.sigma(u, KERNEL.alpha, KERNEL.tau, KERNEL.tau_inclusive)
    return float(query.scales[q]) * float(stored.scales[r]) * total


DATABASE = ImageWords.of(
    {number: random_words(str(number), number, 1 + number % 3) for number in range(9) if number != 4},
    DIM,
    KERNEL,
    [str(number) for number in range(9)],
)
QUERIES = ImageWords.of(
    {0: random_words("a", 100, 1), 1: random_words("b", 101, 2)}, DIM, KERNEL, ["a", "b", "cannot be described"]
)
ALL = np.arange(9)


@pytest.mark.parametrize("number", [0, 1])
def test_places_scores_and_boxes(number: int) -> None:
    query = QUERIES.described[number]
    best = {}
    for item, stored in DATABASE.described.items():
        pairs = [(kernel(query, q, stored, r), -r) for q in range(len(query)) for r in range(len(stored))]
        best[item] = max(pairs)
    order = sorted(best, key=lambda item: (-np.float32(best[item][0]), item))
    found = WordRanking(DATABASE, QUERIES).ranked([ALL] * 3)[number]
    for item, (score, row) in best.items():
        assert found.places[item] == order.index(item)
        assert found.scores[item] == pytest.approx(score, abs=1e-6)
        if score > 0:
            assert found.boxes[item].tolist() == DATABASE.described[item].regions.boxes[-row].tolist()
    assert found.places[4] == UNRANKED
    assert np.isnan(found.boxes[4]).all()


def test_a_query_without_rows_ranks_nothing() -> None:
    found = WordRanking(DATABASE, QUERIES).ranked([ALL, ALL, ALL])[2]
    assert (found.places == UNRANKED).all()


def test_hits_are_the_first_places() -> None:
    ranking = WordRanking(DATABASE, QUERIES)
    results = ranking.search(3)
    for result, places in zip(results[:2], ranking.ranked([ALL] * 3), strict=False):
        first = [str(places.items[n]) for n in np.argsort(np.where(places.places < 0, 99, places.places))]
        hits = [hit.image for hit in result]
        assert hits == first[: len(hits)]
        assert len(hits) == min(3, int((places.scores > 0).sum()))
    assert len(results[2]) == 0


def test_where_the_places_of_features_are_known_the_region_with_most_of_the_query_matched() -> None:
    """All words of image 0 are features of its second box."""
    query = random_words("q", 3, 1)
    points = np.full((len(query.words), 2), 25.0, np.float32)
    places = WordPlaces(query.words, points, query.residuals)
    boxes = Regions([[0, 0, 50, 40], [20, 20, 30, 30], [0, 0, 5, 5]], (40, 50))
    stored = VisualWords(
        "0",
        boxes,
        DIM,
        query.rows,
        query.words,
        query.residuals,
        query.weights,
        np.ones(3, np.float32),
        places,
    )
    database = ImageWords.of({0: stored}, DIM, KERNEL, ["0"])
    asked = ImageWords.of({0: query}, DIM, KERNEL, ["q"])
    (found,) = WordRanking(database, asked).ranked([np.array([0])])
    assert found.boxes.tolist() in ([[0, 0, 50, 40]], [[20, 20, 30, 30]])
    inverted = len(query.words) * (1 + 4) + 3 * 4
    assert database.nbytes == inverted + len(places) * (8 + 1)
    elsewhere = VisualWords(
        "0",
        boxes[2:],
        DIM,
        query.rows[:0],
        query.words[:0],
        query.residuals[:0],
        query.weights[:0],
        np.ones(1, np.float32),
        places,
    )
    assert ImageWords.of({0: elsewhere}, DIM, KERNEL, ["0"]).nbytes == 4, "no feature lies in that box"


def test_what_is_stored_is_counted() -> None:
    one = DATABASE.described[0]
    alone = ImageWords.of({0: one}, DIM, KERNEL, ["0"])
    assert alone.count == len(one.words)
    assert alone.nbytes == len(one.words) * (1 + 4) + 4
    assert (alone.boxes.tolist(), alone.sizes.tolist()) == (one.regions.boxes.tolist(), [[40, 50]])
    assert DATABASE.starts.tolist()[4:6] == [int((DATABASE.items < 4).sum())] * 2
