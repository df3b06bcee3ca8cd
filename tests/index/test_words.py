"""Visual words in an index: stored, searched and kept like vectors, with the scores of the equation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.index import word_kernels
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.verify import verify
from objemb.index.storage.visual_words import WordRows, in_memory
from objemb.index.store import Index
from objemb.index.words import WordBlock
from objemb.structures import VisualWords
from tests.index.made import described, new, publish, store_file
from tests.index.words import same_words, schema, slow_score, words_of

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"items": "regions"},
    {"positions": True},
    {"items": "regions", "dim": 130, "words": 3, "tau": 0.1, "alpha": 1.0},
    {"tau": -1.0, "tau_inclusive": True, "alpha": 2.0},
    {"binary": False, "dtype": "float32"},
    {"binary": False, "dtype": "float32", "items": "regions", "positions": True, "alpha": 0.0},
)


def made(folder: Path, rows: WordRows, images: Sequence[VisualWords], per_commit: int = 10) -> Index:
    index = Index.create(folder, schema=rows, fingerprint="model-w")
    for start in range(0, len(images), per_commit):
        with index.writer() as writer:
            for image in images[start : start + per_commit]:
                writer.add(image, stamp=image.image)
    return index


def images_of(rows: WordRows, count: int, seed: int = 0) -> list[VisualWords]:
    random = np.random.default_rng(seed)
    return [words_of(f"{n}", rows, random, price=n) for n in range(count)]


def slow_hits(rows: WordRows, query: VisualWords, images: Sequence[VisualWords]) -> list[tuple[float, int, int, int]]:
    """``(score, image, row, query row)`` of the best pair of each image that has any, best first."""
    hits = []
    for number, image in enumerate(images):
        pairs = [
            (-np.float32(slow_score(rows, query, q, image, r)), r, q)
            for r in range(len(image))
            for q in range(len(query))
        ]
        pairs = [pair for pair in pairs if pair[0] != 0]
        if pairs:
            score, row, query_row = min(pairs)
            hits.append((-float(score), number, row, query_row))
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))


@pytest.mark.parametrize("changes", KINDS)
def test_what_is_stored_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = schema(**changes)
    images = images_of(rows, 35)
    index = made(tmp_path / "i", rows, images)
    assert index.verify() == []
    assert index.schema == rows
    assert all(same_words(index.get(i.image), i) for i in images)
    index.delete(["3", "17", "20"])
    with index.writer() as writer:
        again = words_of("5", rows, np.random.default_rng(99))
        writer.add(again)
    assert index.compact()
    assert index.verify() == []
    assert len(index.info()) > 5
    left = [i for i in images if i.image not in ("3", "17", "20", "5")] + [again]
    assert [i.id for i in index.images()] == [i.image for i in left]
    assert all(same_words(Index.open(index.path).get(i.image), i) for i in left)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_hits_are_those_of_the_equation(tmp_path: Path, changes: dict[str, Any], seed: int) -> None:
    rows = schema(**changes)
    images = images_of(rows, 30, seed)
    index, random = made(tmp_path / "i", rows, images, per_commit=7), np.random.default_rng(seed + 100)
    queries = [words_of("q", rows, random, query=True) for _ in range(8)]
    for query, answer in zip(queries, index.search_many(queries, 30), strict=True):
        expected = slow_hits(rows, query, images)
        assert [h.image for h in answer] == [images[n].image for _, n, _, _ in expected]
        np.testing.assert_allclose([h.score for h in answer], [s for s, *_ in expected], rtol=0, atol=1e-6)
        for hit, (_, number, row, query_row) in zip(answer, expected, strict=True):
            assert list(hit.box) == images[number].regions.boxes[row].tolist()
            assert list(hit.query_box) == query.regions.boxes[query_row].tolist()
            assert hit.metadata == {"price": number}
        assert answer.scale == "match kernel of visual words"
        few = index.search(query, 3)
        assert few.hits == answer.hits[:3]


def test_thousands_of_scores_are_those_of_the_equation() -> None:
    """Every pair of rows of random images and queries, binary and not, of many sizes."""
    random, compared = np.random.default_rng(5), 0
    for _ in range(200):
        binary, dim = bool(random.random() < 0.6), int(random.choice([1, 7, 8, 63, 64, 65, 128]))
        rows = schema(
            dim=dim,
            words=int(random.choice([2, 5, 40])),
            binary=binary,
            alpha=float(random.choice([0, 1, 3])),
            tau=float(random.choice([-1, 0, 0.25])),
            tau_inclusive=bool(random.random() < 0.5),
            items=str(random.choice(["images", "regions"])),
            dtype="float32",
        )
        images = [words_of(f"{n}", rows, random, most_words=12) for n in range(7)]
        query = words_of("q", rows, random, most_words=40, query=True)
        block, asked = in_memory(rows, images), rows.queries([query])
        for row in range(len(query)):
            scores = block.scores(asked, row)
            expected = [slow_score(rows, query, row, i, r) for i in images for r in range(len(i))]
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
            compared += len(expected)
    assert compared > 2500


def test_equal_rows_have_equal_scores_wherever_they_stand(tmp_path: Path) -> None:
    rows = schema(words=2000, dim=128)
    random = np.random.default_rng(0)
    one = words_of("one", rows, random, regions=1, most_words=1500)
    others = [words_of(f"{n}", rows, random, regions=1, most_words=1500) for n in range(40)]
    alike = [VisualWords(f"a{n}", one.regions, *_fields(one)) for n in range(20)]
    index = made(tmp_path / "i", rows, [w for pair in zip(others, alike * 2, strict=True) for w in pair][:40], 9)
    query = words_of("q", rows, random, regions=1, most_words=1500, query=True)
    hits = {h.image: h.score for h in index.search(query, 100)}
    assert len({hits[f"a{n}"] for n in range(20)}) == 1
    named = [h.image for h in index.search(query, 100) if h.image.startswith("a")]
    assert named == sorted(named, key=lambda name: int(name[1:]))


def _fields(one: VisualWords) -> tuple[Any, ...]:
    return one.dim, one.rows, one.words, one.residuals, one.weights, one.scales


def test_the_test_vector_of_regional_asmk(tmp_path: Path) -> None:
    """Word 0 has (.447, .894) in the image and (.894, .447) in the query: 0.8, and 0.512 in its third power; word 1
    has (-.707, .707) and (.707, .707): 0."""
    rows = WordRows(dim=2, words=2, binary=False, dtype="float32")
    image = _two_words("image", [[0.4472136, 0.8944272], [-0.70710678, 0.70710678]], 1)
    query = _two_words("query", [[0.8944272, 0.4472136], [0.70710678, 0.70710678]], 1)
    index = made(tmp_path / "i", rows, [image])
    assert index.search(query)[0].score == pytest.approx(0.512, abs=1e-6)
    halves = _two_words("query", query.residuals.tolist(), 0.5)
    assert index.search(halves)[0].score == pytest.approx(0.256, abs=1e-6)


def _two_words(name: str, residuals: list[list[float]], scale: float) -> VisualWords:
    regions = described(name, count=1).regions
    return VisualWords(
        name,
        regions,
        2,
        np.zeros(2, np.int64),
        np.arange(2, dtype=np.int32),
        np.array(residuals, np.float32),
        np.ones(2, np.float32),
        np.array([scale], np.float32),
    )


def test_filters_keep_an_image_with_a_region_that_fits(tmp_path: Path) -> None:
    rows = schema()
    images = images_of(rows, 30)
    index = made(tmp_path / "i", rows, images)
    query = words_of("q", rows, np.random.default_rng(7), regions=1, query=True)
    every = {h.image for h in index.search(query, 30)}
    cups = {i.image for i in images if "cup" in i.regions.label_names}
    assert every & cups
    assert every - cups
    assert {h.image for h in index.search(query, 30, where="label = cup")} == every & cups
    assert {h.image for h in index.search(query, 30, where="price < 9")} == {i for i in every if int(i) < 9}
    regional = schema(items="regions")
    images = images_of(regional, 30)
    other = made(tmp_path / "r", regional, images)
    for hit in other.search(query, 30, where="label = cup"):
        image = images[int(hit.image)]
        assert image.regions.label_names[image.regions.boxes.tolist().index(list(hit.box))] == "cup" == hit.label


def test_exclude_and_least_score(tmp_path: Path) -> None:
    rows = schema()
    index = made(tmp_path / "i", rows, images_of(rows, 30))
    query = words_of("q", rows, np.random.default_rng(7), regions=1, query=True)
    hits = index.search(query, 30).hits
    assert [h.image for h in index.search(query, 2, exclude=hits[0].image)] == [h.image for h in hits[1:3]]
    assert index.search(query, 30, min_score=hits[2].score).hits == hits[:3]
    index.delete([hits[0].image])
    assert index.search(query, 30).hits == hits[1:]


def test_runners_up_are_the_next_pairs_with_a_common_word(tmp_path: Path) -> None:
    rows = schema(items="regions", words=3)
    images = images_of(rows, 20)
    index = made(tmp_path / "i", rows, images)
    query = words_of("q", rows, np.random.default_rng(3), regions=3, query=True)
    for hit in index.search(query, 20, runners_up=50):
        image = images[int(hit.image)]
        scores = [slow_score(rows, query, q, image, r) for r in range(len(image)) for q in range(3)]
        expected = sorted((s for s in scores if s != 0), reverse=True)
        np.testing.assert_allclose([hit.score, *(r.score for r in hit.runners_up)], expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": True},
        {"items": "regions", "positions": True},
        {"binary": False},
        {"binary": False, "dtype": "float32"},
    ],
)
def test_what_is_got_can_be_added_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    """With the same scores, from an index of idf too: its weights belong to queries."""
    rows, random = schema(**changes), np.random.default_rng(4)
    originals = [replace(i, weights=i.weights * 3) for i in images_of(rows, 40)]
    first = made(tmp_path / "first", rows, originals)
    got = [first.get(i.image) for i in originals]
    second = made(tmp_path / "second", rows, [i for i in got if isinstance(i, VisualWords)])
    assert len(second) == 40
    for number in range(10):
        query = words_of(f"q{number}", rows, random, regions=2, query=True)
        assert second.search(query, 40) == first.search(query, 40)
    for one in got:
        assert isinstance(one, VisualWords)
        again = second.get(one.image)
        assert isinstance(again, VisualWords)
        assert same_words(again, one)
        assert (again.weights == 1).all()
        if one.places is not None and again.places is not None:
            np.testing.assert_array_equal(again.places.points, one.places.points)


@pytest.mark.parametrize("length", [1, 5, 64, 3000])
def test_long_and_short_lists_in_steps(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    rows = schema(words=4, dim=70)
    images = images_of(rows, 40)
    block, query = in_memory(rows, images), words_of("q", rows, np.random.default_rng(3), regions=1, query=True)
    expected = block.scores(rows.queries([query]), 0)
    monkeypatch.setattr(word_kernels, "POSTINGS_PER_STEP", length)
    np.testing.assert_array_equal(block.scores(rows.queries([query]), 0), expected)
    for part in (np.arange(0), np.arange(3, 20), np.array([len(block) - 1, 5, 11])):
        np.testing.assert_array_equal(block.scores(rows.queries([query]), 0, part), expected[part])


def test_nothing_in_common_nothing_found(tmp_path: Path) -> None:
    rows = schema(words=100)
    random = np.random.default_rng(0)
    index = made(tmp_path / "i", rows, [words_of("empty", rows, random, regions=2, most_words=0)])
    assert len(index.search(words_of("q", rows, random, regions=2, query=True))) == 0
    assert len(index.search(words_of("q", rows, random, regions=0, query=True))) == 0
    assert same_words(index.get("empty"), words_of("empty", rows, np.random.default_rng(0), regions=2, most_words=0))
    assert len(in_memory(rows, [])) == 0
    assert len(made(tmp_path / "none", rows, []).search(words_of("q", rows, random, regions=2, query=True))) == 0


def test_what_does_not_fit_is_refused_with_both_named(tmp_path: Path) -> None:
    rows, random = schema(), np.random.default_rng(0)
    index, vectors = made(tmp_path / "w", rows, images_of(rows, 5)), new(tmp_path / "v", described("a"))
    words = words_of("q", rows, random, regions=1, most_words=3, query=True)
    with pytest.raises(ArtefactMismatchError, match=r"'q': expected visual words .* found vectors of regions"):
        index.search(described("q"))
    with pytest.raises(ArtefactMismatchError, match=r"'q': expected vectors for an index of .* found VisualWords"):
        vectors.search(words)
    with index.writer() as writer, pytest.raises(ArtefactMismatchError, match="image 'a': expected visual words"):
        writer.add(described("a"))
    with vectors.writer() as writer, pytest.raises(ArtefactMismatchError, match="image 'q': expected vectors"):
        writer.add(words)
    with pytest.raises(ArtefactMismatchError, match=r"w: expected an index of 'unit_vectors', found .* 'visual_words'"):
        index.dense_rows()
    with pytest.raises(ArtefactMismatchError, match="dimension 20, found 9"):
        index.search(words_of("q", schema(dim=9), random, regions=1, query=True))
    with pytest.raises(ArtefactMismatchError, match="expected residuals as signs, found numbers"):
        index.search(_two_worded(binary=False))
    with pytest.raises(ArtefactMismatchError, match="a codebook of 12, found word 30"):
        index.search(_two_worded(words=(3, 30)))
    other = made(tmp_path / "o", schema(alpha=1.0), [])
    with pytest.raises(ArtefactMismatchError, match=r"expected alpha 3\.0, found 1\.0"):
        index.merge([other])
    assert len(index) == 5


def _two_worded(words: tuple[int, int] = (1, 2), binary: bool = True, row: int = 0, count: int = 2) -> VisualWords:
    regions = described("x", count=count).regions
    numbers = np.eye(20, dtype=np.float32)[:2]
    return VisualWords(
        "x",
        regions,
        20,
        np.full(2, row, np.int64),
        np.array(words, np.int32),
        np.packbits(numbers > 0, axis=1) if binary else numbers,
        np.ones(2, np.float32),
        np.ones(count, np.float32),
    )


def test_words_that_cannot_be_stored() -> None:
    with pytest.raises(ValueError, match=r"words of 'x': expected row 0 alone to have some, .* found those of row 1"):
        schema().encode(_two_worded(row=1))
    with pytest.raises(ValueError, match="words of 'x': expected the places of local features, found none"):
        schema(positions=True).encode(_two_worded())
    long = _two_worded(binary=False)
    long.residuals[0] *= 2
    with pytest.raises(ValueError, match="expected rows of unit length"):
        schema(binary=False).encode(long)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim: expected an integer of 1 or more, found 0"),
        ({"words": 1}, "words: expected a number from 2 to"),
        ({"items": "photos"}, "items: expected one of 'images', 'regions', found 'photos'"),
        ({"alpha": -1}, "alpha: expected a number from 0 to 100, found -1"),
        ({"dtype": "float64"}, "dtype: expected one of"),
    ],
)
def test_what_no_schema_of_words_is(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schema(**changes)


def test_indexes_of_words_are_merged(tmp_path: Path) -> None:
    rows = schema(positions=True)
    images = images_of(rows, 20)
    index, other = made(tmp_path / "a", rows, images[:12]), made(tmp_path / "b", rows, images[8:])
    index.merge([other], on_collision="keep")
    assert len(index) == 20
    assert index.verify() == []
    assert all(same_words(index.get(i.image), i) for i in images)
    assert isinstance(index.schema, WordRows)
    assert not isinstance(index.schema, UnitVectors)


def test_half_precision_halves_residuals(tmp_path: Path) -> None:
    rows = schema(binary=False)
    images = images_of(rows, 10)
    index = made(tmp_path / "i", rows, images)
    assert all(same_words(index.get(i.image), i, tolerance=1e-3) for i in images)
    assert index.verify() == []


def test_the_compiled_loop_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one, two and three numbers a posting, of lists that are longer and shorter than the table and the step."""
    pytest.importorskip("numba")
    random, compiled = np.random.default_rng(2), word_kernels._Compiled()
    for dim, count in ((20, 60), (128, 150), (128, 10), (130, 60)):
        rows = schema(words=30, dim=dim, items="regions")
        images = [words_of(f"{n}", rows, random, most_words=30) for n in range(count)]
        block = in_memory(rows, images)
        query = rows.queries([words_of("q", rows, random, regions=3, most_words=30, query=True)])
        part = np.arange(3, len(block) // 2)
        with monkeypatch.context() as by_numpy:
            by_numpy.setattr(word_kernels, "_compiled", word_kernels._Compiled())
            by_numpy.setattr(word_kernels, "COMPILE_AFTER", 1 << 62)
            expected = [(block.scores(query, row), block.scores(query, row, part)) for row in range(3)]
        monkeypatch.setattr(word_kernels, "_compiled", compiled)
        monkeypatch.setattr(word_kernels, "COMPILE_AFTER", 0)
        monkeypatch.setattr(word_kernels, "COMPILED_STEP", 64)
        for row in range(3):
            np.testing.assert_array_equal(block.scores(query, row), expected[row][0])
            np.testing.assert_array_equal(block.scores(query, row, part), expected[row][1])
        assert compiled.loop(0) is not None
        with pytest.raises(DamagedIndexError, match="expected postings of rows of their segment"):
            replace(block, postings=_as_read(block.postings + len(block))).scores(query, 0)
        with pytest.raises(DamagedIndexError, match="signs of its length"):
            replace(block, residuals=_as_read(~block.residuals), dim=1).scores(query, 0)


def _as_read(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False  # as what is mapped: else the loop is compiled once more
    return values


def test_threads_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = schema()
    index = made(tmp_path / "i", rows, images_of(rows, 30))
    queries = [words_of("q", rows, np.random.default_rng(n), query=True) for n in range(9)]
    expected = index.search_many(queries)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert index.search_many(queries) == expected


@pytest.mark.parametrize(
    ("column", "change", "problem", "search"),
    [
        (
            "postings",
            lambda a: a + 1000,
            "expected postings of rows below",
            "expected postings of rows of their segment",
        ),
        ("postings", lambda a: a[::-1], "expected rows that rise within a word", None),
        ("vocabulary", lambda a: a[::-1], "expected words that rise", "expected words that rise"),
        ("vocabulary", lambda a: a + 12, "expected words below 12", None),
        ("starts", lambda a: a + 1, "postings of words, found 1 to", "postings of words, found 1 to"),
        ("scales", lambda a: a * np.float32(np.inf), "expected finite scales", "residuals and scales that are finite"),
        ("residuals", lambda a: ~a, "expected zeros behind the 20 signs", "signs of its length"),
        ("placed", lambda a: a + 1, "expected the places of", None),
        ("places", lambda a: a[::-1], "places: expected words below 12", None),
    ],
)
def test_forged_columns_are_found(
    tmp_path: Path, column: str, change: Callable[[np.ndarray], np.ndarray], problem: str, search: str | None
) -> None:
    """Checksums are right: somebody wrote them on purpose."""
    rows = schema(positions=True)
    index = made(tmp_path / "i", rows, images_of(rows, 30), per_commit=30)
    (segment,) = index.state.segments
    stored = index._snapshot.segments[0].columns[column]
    if column == "places":
        stored = stored.view(np.uint8)
    forged = store_file(index.path, f"00000500.{column}", np.ascontiguousarray(change(stored)))
    changed = replace(segment, files={**segment.files, column: forged})
    publish(index.path, replace(index.state, segments=(changed,), next_file=501))
    assert any(problem in p for p in verify(index.path))
    query = words_of("q", rows, np.random.default_rng(3), regions=3, most_words=12, query=True)
    if search is None:
        Index.open(index.path).search(query)
    else:
        with pytest.raises(DamagedIndexError, match=search):
            Index.open(index.path).search(query)


def test_damage_beyond_the_best_pair_names_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = schema(items="regions")
    index = made(tmp_path / "i", rows, images_of(rows, 30))
    query = words_of("q", rows, np.random.default_rng(3), regions=3, most_words=12, query=True)
    assert index.search(query, runners_up=2)

    def damaged(*_: object) -> None:
        raise DamagedIndexError("a posting is wrong")

    monkeypatch.setattr(WordBlock, "pairs_of_images", damaged)
    with pytest.raises(DamagedIndexError, match=r"i: a posting is wrong \('objemb verify' tells which file\)"):
        index.search(query, runners_up=2)
