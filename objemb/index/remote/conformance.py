"""What every index has to do, wherever it lives: test cases with the truth by brute force.

A package that brings a store tests it by one import::

    from objemb.index.remote.conformance import Conformance

    class TestMyStore(Conformance):
        def new_address(self) -> str:
            return f"mystore://localhost/{uuid.uuid4().hex}"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from objemb.checks import ArtefactMismatchError, IndexFolderError
from objemb.index.collection import ImageCollection
from objemb.index.filters.syntax import WhereError
from objemb.index.opening import create_index, index_exists, open_index
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.structures import RegionDescriptors, Regions, Scalar, SearchResult
from objemb.types import Float32Array

DIM = 16
#: Filters, and for which photos of :func:`gallery` they are true, by metadata and label of a box.
FILTERS: tuple[tuple[str, Callable[[Any, str | None], Any]], ...] = (
    ("shop = 'a'", lambda m, label: m.get("shop") == "a"),
    ("not shop = 'b'", lambda m, label: m.get("shop") not in (None, "b")),
    ("shop != 'b'", lambda m, label: m.get("shop") not in (None, "b")),
    ("not (shop = 'b' or price > 3)", lambda m, label: _not_or(m)),
    ("shop is null", lambda m, label: m.get("shop") is None),
    ("not shop is null", lambda m, label: m.get("shop") is not None),
    ("shop in ('a', 'c%_')", lambda m, label: m.get("shop") in ("a", "c%_")),
    ("shop not in ('a', 'b')", lambda m, label: m.get("shop") not in (None, "a", "b")),
    ("shop = 'c%_'", lambda m, label: m.get("shop") == "c%_"),
    ("shop >= 'b' and shop < 'c%z'", lambda m, label: m.get("shop") is not None and "b" <= str(m["shop"]) < "c%z"),
    ("price = 3.2", lambda m, label: m.get("price") == 3.2),
    ("price in (3, 3.2)", lambda m, label: m.get("price") in (3, 3.2)),
    ("price < 2 and label = bottle", lambda m, label: m["price"] < 2 and label == "bottle"),
    ("label is null", lambda m, label: label is None),
    ("label != bottle", lambda m, label: label == "can"),
    ("not label in (bottle)", lambda m, label: label == "can"),
    ("day >= '2024-01-15' and day < '2024-02-01'", lambda m, label: "2024-01-15" <= str(m["day"]) < "2024-02-01"),
    ("sold = true", lambda m, label: m.get("sold") is True),
    ("sold != true", lambda m, label: m.get("sold") is False),
    ("mixed = 1", lambda m, label: m.get("mixed") in (1,) and m.get("mixed") is not True),
    ("not mixed = 1", lambda m, label: isinstance(m.get("mixed"), float)),
    ("mixed in (1, 'one')", lambda m, label: not isinstance(m.get("mixed"), bool) and m.get("mixed") in (1, "one")),
    ("`two words` = 'x' or metadata.shop = 'a'", lambda m, label: m.get("two words") == "x" or m.get("shop") == "a"),
    ("image = 'photo 7'", lambda m, label: m["number"] == 7),
    ("score > 0.5", lambda m, label: m["number"] % 2 == 0),
    ("price < -1", lambda m, label: False),
)


def _not_or(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("shop") not in (None, "b") and not metadata["price"] > 3


def unit(rng: np.random.Generator, count: int) -> Float32Array:
    """Random vectors of unit length: float32 ``(count, DIM)``."""
    vectors = rng.normal(size=(count, DIM))
    scaled: Float32Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def photo(
    image: str,
    vectors: Float32Array,
    metadata: Mapping[str, Scalar] | None = None,
    labels: Sequence[int] = (),
    score: float = 1.0,
) -> RegionDescriptors:
    """A photo with a box for each vector, none alike."""
    count = len(vectors)
    left = np.arange(count, dtype=np.float32)
    boxes = np.stack([left, left / 2, left + 10.25, left / 2 + 7], axis=1)
    chosen = list(labels) or [-1] * count
    regions = Regions(boxes, (1000, 1200), np.full(count, score, np.float32), chosen, ("bottle", "can"))
    return RegionDescriptors(image, regions, vectors, metadata or {})


def gallery(seed: int = 0, photos: int = 60) -> list[RegionDescriptors]:
    """Random photos with metadata of all types, with nulls."""
    rng, made = np.random.default_rng(seed), []
    for number in range(photos):
        count = int(rng.integers(0, 6)) if number else 4
        metadata: dict[str, Scalar] = {
            "number": number,
            "shop": (None, "a", "b", "c%_", "cxx")[number % 5],
            "price": number / 10,
            "day": f"2024-01-{1 + number % 28:02d}",
            "mixed": (None, 1, 1.5, "one", True)[number % 5],
        }
        if number % 3:
            metadata["sold"] = number % 3 == 1
        if number % 4 == 0:
            metadata["two words"] = "x"
        labels = rng.integers(-1, 2, count).tolist()
        score = 0.9 if number % 2 == 0 else 0.25
        made.append(photo(f"photo {number}", unit(rng, count), metadata, labels, score))
    return made


def truth(
    photos: Sequence[RegionDescriptors],
    query: RegionDescriptors,
    k: int,
    fits: Callable[[Any, str | None], Any] | None = None,
) -> list[tuple[str, float, tuple[float, ...], tuple[float, ...]]]:
    """The ``k`` best photos by brute force: id, score, box and query box; ties by photo, box and query row."""
    best = []
    for order, one in enumerate(photos):
        pairs = []
        for row, label in enumerate(one.regions.label_names):
            if fits is not None and not fits(one.metadata, label):
                continue
            for asked in range(len(query)):
                exact = np.dot(one.vectors[row].astype(np.float64), query.vectors[asked].astype(np.float64))
                pairs.append((-float(np.float32(exact)), row, asked))
        if pairs:
            score, row, asked = min(pairs)
            best.append((score, order, row, asked, one))
    best.sort(key=lambda entry: entry[:4])
    return [
        (one.image, -score, tuple(one.regions.boxes[row].tolist()), tuple(query.regions.boxes[asked].tolist()))
        for score, _, row, asked, one in best[:k]
    ]


def found(result: SearchResult) -> list[tuple[str, float, tuple[float, ...], tuple[float, ...]]]:
    """A result as :func:`truth` gives it."""
    return [(hit.image, hit.score, hit.box, hit.query_box) for hit in result]


def _check(result: SearchResult, expected: Sequence[tuple[str, float, tuple[float, ...], tuple[float, ...]]]) -> None:
    here = found(result)
    assert [(e[0], *e[2:]) for e in here] == [(e[0], *e[2:]) for e in expected], (here, expected)
    np.testing.assert_allclose([e[1] for e in here], [e[1] for e in expected], rtol=0, atol=1e-7)


class Conformance:
    """The test cases. A subclass says where a new index can be made."""

    def new_address(self) -> str:
        """Where no index is yet."""
        raise NotImplementedError

    def filled(self, photos: Sequence[RegionDescriptors]) -> ImageCollection:
        """A new index of some photos."""
        index = create_index(self.new_address(), schema=UnitVectors(DIM), fingerprint="model a", model={"path": "m"})
        with index.writer() as writer:
            for number, one in enumerate(photos):
                writer.add(one, f"stamp {number}")
        return index

    def test_random_rows_with_one_and_five_query_rows(self) -> None:
        photos, rng = gallery(), np.random.default_rng(1)
        index = self.filled(photos)
        for rows in (1, 5):
            query = photo("query", unit(rng, rows))
            for k in (1, 10):
                _check(index.search(query, k, exact=True), truth(photos, query, k))

    def test_many_boxes_of_few_photos_are_near_the_query(self) -> None:
        rng = np.random.default_rng(2)
        (query,) = unit(rng, 1)
        near = [photo(f"near {n}", _around(query, rng, 50)) for n in range(9)]
        photos = [*near[:5], *gallery(3, 20), *near[5:]]
        _check(
            self.filled(photos).search(photo("q", query[None]), 10, exact=True),
            truth(photos, photo("q", query[None]), 10),
        )

    def test_fewer_photos_than_asked_for(self) -> None:
        photos = gallery(4, 5)
        index, query = self.filled(photos), photo("query", unit(np.random.default_rng(5), 2))
        _check(index.search(query, 100, exact=True), truth(photos, query, 100))
        assert len(index) == 5

    def test_an_empty_index_and_photos_without_boxes(self) -> None:
        query = photo("query", unit(np.random.default_rng(6), 2))
        index = self.filled([])
        assert (len(index), list(index.images()), index.search(query).hits) == (0, [], ())
        with index.writer() as writer:
            writer.add(photo("bare", np.zeros((0, DIM), np.float32), {"shop": "a"}), "s")
        index.refresh()
        assert (len(index), index.info()["regions"], index.search(query, exact=True).hits) == (1, 0, ())
        bare = index.get("bare")
        assert bare is not None
        assert (len(bare), dict(bare.metadata), index.stamp("bare")) == (0, {"shop": "a"}, "s")

    def test_ties_are_ordered_as_photos_were_added(self) -> None:
        rng = np.random.default_rng(7)
        (one,) = unit(rng, 1)
        photos = [photo(f"same {n}", np.stack([one, one])) for n in rng.permutation(40).tolist()]
        query = photo("query", np.stack([one, one]))
        index = self.filled(photos)
        _check(index.search(query, 7, exact=True), truth(photos, query, 7))

    def test_filters(self) -> None:
        photos, query = gallery(), photo("query", unit(np.random.default_rng(8), 3))
        index = self.filled(photos)
        for where, fits in FILTERS:
            expected = truth(photos, query, 10, fits)
            try:
                _check(index.search(query, 10, where=where, exact=True), expected)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            wanted = [p.image for p in photos if any(fits(p.metadata, label) for label in p.regions.label_names)]
            assert index.find(where) == wanted, where

    def test_wrong_filters(self) -> None:
        index, query = self.filled(gallery(9, 8)), photo("query", unit(np.random.default_rng(9), 1))
        for where, message in (
            ("color = 1", "unknown field 'color'"),
            ("shop < 3", "found the number 3"),
            ("=", "expected a field"),
        ):
            try:
                index.search(query, where=where)
            except WhereError as error:
                assert message in str(error), error
            else:
                raise AssertionError(f"expected an error for {where!r}")

    def test_boxes_and_everything_else_come_back(self) -> None:
        photos = gallery(10, 12)
        index = self.filled(photos)
        assert [image.id for image in index.images()] == [p.image for p in photos]
        for start in (1, 5, 12, 13):
            assert [image.id for image in index.images(start)] == [p.image for p in photos[start:]]
        assert [index.added_since(0), index.added_since(index.next_image)] == [12, 0]
        assert len(index.sample(7)) == 7
        assert index.stamps() == {p.image: f"stamp {n}" for n, p in enumerate(photos)}
        for (stored, stamp), one in zip(index.described(), photos, strict=True):
            assert isinstance(stored, RegionDescriptors)
            assert (stored.image, stored.regions.size, dict(stored.metadata)) == (
                one.image,
                (1000, 1200),
                dict(one.metadata),
            )
            assert [type(v) for v in dict(sorted(stored.metadata.items())).values()] == [
                type(v) for v in dict(sorted(one.metadata.items())).values()
            ]
            assert stored.regions.label_names == one.regions.label_names
            for name in ("boxes", "scores"):
                np.testing.assert_array_equal(getattr(stored.regions, name), getattr(one.regions, name))
            np.testing.assert_array_equal(stored.vectors, one.vectors)
            assert stamp == index.stamp(one.image)
        assert index.get("nobody") is None
        assert index.columns() == ["day", "mixed", "number", "price", "shop", "sold", "two words"]
        assert index.labels() == ["bottle", "can"]
        rows = index.rows_of_images(["photo 3", "photo 0"], "label is null")
        expected = [
            v
            for n in (3, 0)
            for v, name in zip(photos[n].vectors, photos[n].regions.label_names, strict=True)
            if name is None
        ]
        np.testing.assert_array_equal(rows.vectors, np.array(expected, np.float32).reshape(-1, DIM))
        np.testing.assert_array_equal(index.dense_rows().vectors, np.concatenate([p.vectors for p in photos]))
        fits = index.fitting("photo 0", "label = bottle")
        assert fits.tolist() == [name == "bottle" for name in photos[0].regions.label_names]
        hit = index.search(photo("q", photos[0].vectors[:1]), 1, exact=True)[0]
        assert index.named([hit]) == [hit]

    def test_numbers_that_json_has_no_words_for(self) -> None:
        values: dict[str, Scalar] = {
            "large": 1e16,
            "whole": 10**17,
            "small": 1.5e-7,
            "beyond": float("inf"),
            "no": float("nan"),
            "film": "Infinity War",
        }
        index = self.filled([photo("one", unit(np.random.default_rng(11), 1), values)])
        stored = index.get("one")
        assert stored is not None
        assert {key: repr(value) for key, value in stored.metadata.items()} == {k: repr(v) for k, v in values.items()}
        for where, count in (
            ("large = 1e16", 1),
            ("beyond > 1e300", 1),
            ("no is null", 1),
            ("whole = 100000000000000000", 1),
            ("whole = 100000000000000001", 0),
            ("small = 0.00000015", 1),
            ("no < 1", 0),
            ("film = 'Infinity War'", 1),
        ):
            try:
                answer = index.search(photo("q", unit(np.random.default_rng(12), 1)), where=where, exact=True)
            except WhereError:  # a column without values of the type
                assert where == "no < 1"
                continue
            assert len(answer) == count, where

    def test_a_photo_is_replaced_by_fewer_and_by_more_boxes(self) -> None:
        rng = np.random.default_rng(13)
        photos = gallery(13, 10)
        index = self.filled(photos)
        for boxes in (1, 9, 0, 3):
            again = photo("photo 0", unit(rng, boxes), {"shop": "z"})
            with index.writer() as writer:
                assert "photo 0" in writer
                writer.add(again, "new")
            index.refresh()
            photos = [*(p for p in photos if p.image != "photo 0"), again]  # it is the last one now
            query = photo("query", unit(rng, 2))
            _check(index.search(query, 20, exact=True), truth(photos, query, 20))
            assert (index.stamp("photo 0"), len(index)) == ("new", 10)
            assert index.info()["regions"] == sum(map(len, photos))
            assert index.verify() == []

    def test_deleting(self) -> None:
        photos = gallery(14, 10)
        index = self.filled(photos)
        assert index.delete(["photo 2", "nobody", "photo 5", "photo 2"]) == ["nobody"]
        with index.writer() as writer:
            assert [n for n in range(-30, 30) if f"photo {n}" in writer] == [0, 1, 3, 4, 6, 7, 8, 9]
        left = [p for p in photos if p.image not in ("photo 2", "photo 5")]
        query = photo("query", unit(np.random.default_rng(15), 2))
        _check(index.search(query, 20, exact=True), truth(left, query, 20))
        assert [image.id for image in index.images()] == [p.image for p in left]
        assert "photo 2" not in index

    def test_opening_again(self) -> None:
        photos = gallery(16, 10)
        made = self.filled(photos)
        index = open_index(made.address)
        query = photo("query", unit(np.random.default_rng(17), 2))
        assert index.search(query, exact=True) == made.search(query, exact=True)
        assert (index.fingerprint, index.schema, index.model) == ("model a", UnitVectors(DIM), {"path": "m"})
        before = index.mark()
        made.delete(["photo 1"])
        assert index.mark() != before
        newest = index.newest()
        assert newest.state != index.state or newest is not index
        assert len(newest) == 9

    def test_an_index_of_another_model_is_refused(self) -> None:
        index = self.filled(gallery(18, 3))
        for wrong in (
            lambda: index.check_fingerprint("model b"),
            lambda: index.writer(fingerprint="model b"),
            lambda: index.search(RegionDescriptors("q", Regions.whole((5, 5)), np.eye(1, 3, dtype=np.float32))),
        ):
            try:
                wrong()
            except ArtefactMismatchError as error:
                assert "expected" in str(error)
            else:
                raise AssertionError("expected an error")
        try:
            create_index(index.address, schema=UnitVectors(DIM), fingerprint="model b")
        except IndexFolderError as error:
            assert "found an index" in str(error) or "found one" in str(error)
        else:
            raise AssertionError("expected an error")

    def test_nothing_is_there(self) -> None:
        address = self.new_address()
        assert not index_exists(address)
        try:
            open_index(address)
        except IndexFolderError as error:
            assert "expected" in str(error)
        else:
            raise AssertionError("expected an error")

    def test_two_writers_one_after_the_other(self) -> None:
        rng = np.random.default_rng(19)
        index = self.filled([photo("a", unit(rng, 3))])
        other = open_index(index.address)
        last = photo("a", unit(rng, 2))
        with other.writer() as writer:
            writer.add(photo("a", unit(rng, 5)))
            writer.add(photo("b", unit(rng, 1)))
        with index.writer() as writer:
            writer.add(last)
        fresh = open_index(index.address)
        query = photo("query", unit(rng, 2))
        assert len(fresh) == 2
        assert [hit.box for hit in fresh.search(query, where="image = a", exact=True)] == [
            entry[2] for entry in truth([last], query, 1)
        ]

    def test_compacting(self) -> None:
        photos = gallery(21, 12)
        index = self.filled(photos)
        index.delete(["photo 3", "photo 4"])
        left = [p for p in photos if p.image not in ("photo 3", "photo 4")]
        query = photo("query", unit(np.random.default_rng(22), 2))
        assert index.compact()
        _check(index.search(query, 20, exact=True), truth(left, query, 20))
        assert index.verify() == []
        with index.writer() as writer:
            writer.add(photos[3], "again")
        index.refresh()
        assert [image.id for image in index.images()] == [*(p.image for p in left), "photo 3"]

    def test_merging(self) -> None:
        photos, rng = gallery(23, 12), np.random.default_rng(24)
        index, more = self.filled(photos[:8]), self.filled(photos[8:])
        index.merge([more])
        query = photo("query", unit(rng, 2))
        _check(index.search(query, 20, exact=True), truth(photos, query, 20))
        assert index.stamps() == {p.image: f"stamp {n % 8}" for n, p in enumerate(photos)}
        other = photo("photo 9", unit(rng, 3))
        again = self.filled([other, photo("new", unit(rng, 1))])
        try:
            index.merge([again])
        except ValueError as error:
            assert "expected image ids that are new, found 'photo 9' in both indexes" in str(error)
        else:
            raise AssertionError("expected an error")
        assert len(index) == 12
        index.merge([again], on_collision="keep")
        kept = index.get("photo 9")
        assert kept is not None
        assert (len(index), len(kept)) == (13, len(photos[9]))
        index.merge([again], on_collision="replace")
        replaced = index.get("photo 9")
        assert replaced is not None
        assert (len(index), len(replaced)) == (13, 3)

    def test_another_generation(self) -> None:
        photos, rng = gallery(25, 6), np.random.default_rng(26)
        index = self.filled(photos)
        created = index.info()["created"]
        query = photo("query", unit(rng, 2))
        assert (index.generations.begun(), index.generations.kept()) == (None, None)
        made = index.generations.begin(UnitVectors(DIM), "model b", {"path": "n"})
        again = [photo(p.image, unit(rng, 2)) for p in photos[:5]]
        with made.writer() as writer:
            for one in again:
                writer.add(one, "s")
        begun = open_index(index.address).generations.begun()
        assert begun is not None
        assert (len(begun), begun.fingerprint, begun.verify()) == (5, "model b", [])
        _check(index.search(query, 20, exact=True), truth(photos, query, 20))
        assert open_index(index.address).info()["next"]["images"] == 5

        index.refresh()
        assert index.delete(["photo 1"]) == []
        stale = open_index(index.address)
        assert index.delete(["photo 2"]) == []
        assert not stale.generations.switch(keep=True)
        stale.refresh()
        assert stale.generations.switch(keep=True)
        fresh = open_index(index.address)
        _check(fresh.search(query, 20, exact=True), truth(again, query, 20))
        assert (fresh.fingerprint, fresh.model, fresh.info()["created"]) == ("model b", {"path": "n"}, created)
        assert (fresh.generations.begun(), fresh.info()["next"], fresh.info()["previous"]["images"]) == (None, None, 4)
        assert fresh.generations.kept() is not None

        # the one that was open goes on answering, and refuses photos that the new one would not have
        left = [p for p in photos if p.image not in ("photo 1", "photo 2")]
        _check(index.search(query, 20, exact=True), truth(left, query, 20))
        for refused in (index.refresh, lambda: index.delete(["photo 0"])):
            try:
                refused()
            except ArtefactMismatchError as error:
                assert "model" in str(error)
            else:
                raise AssertionError("expected an error")
        fresh.refresh()
        assert fresh.generations.drop("previous")
        assert not fresh.generations.drop("previous")
        assert (fresh.generations.kept(), len(fresh), fresh.verify()) == (None, 5, [])
        fresh.generations.begin(UnitVectors(DIM), "model c", None)
        assert fresh.generations.drop("next")
        fresh.generations.tidy()
        assert fresh.generations.begun() is None

    def test_exact_search_beside_a_structure(self) -> None:
        rng = np.random.default_rng(20)
        photos = [photo(f"p {n}", unit(rng, 4), {"half": n % 2, "few": n % 100 == 0}) for n in range(400)]
        index = self.filled(photos)
        query = photo("query", unit(rng, 2))
        try:
            index.build_structure()
        except (ImportError, ValueError):  # without the library of approximate search, or too few rows
            return
        if index.info()["approximate"] is None:  # the store has its own mind about when it is worth it
            return
        answer = index.search(query, 10, exact=True)
        _check(answer, truth(photos, query, 10))
        assert not answer.approximate
        near = index.search(query, 10, exact=False)
        assert len(near) == 10
        assert near.approximate
        assert [hit.score for hit in near] == sorted((hit.score for hit in near), reverse=True)
        few = index.search(query, 10, where="few = true", exact=False)
        assert len(few) == 4  # all there are: a filter loses nothing


def _around(query: Float32Array, rng: np.random.Generator, count: int) -> Float32Array:
    """Vectors close to another one."""
    vectors = query + 0.05 * rng.normal(size=(count, DIM))
    scaled: Float32Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled
