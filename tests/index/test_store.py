"""Creating, filling, searching, reopening."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from objemb.checks import ArtefactMismatchError, DamagedIndexError, IndexFolderError
from objemb.index.engines import exact as exact_engine
from objemb.index.engines.exact import ENCODE_AFTER
from objemb.index.searcher import REMEMBERED_FILTERS
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions, SearchResult
from tests.index.made import DIM, described, new, same, vectors


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    values = {"name": "a'b \u00e9", "price": 3, "weight": 3.0, "sold": True, "note": None, "big": 10**30}
    image = described("shelf/1.jpg", 1, **values)
    index = new(tmp_path / "i", image)
    found = Index.open(tmp_path / "i").get("shelf/1.jpg")
    assert same(found, image)
    assert {k: type(v) for k, v in found.metadata.items()} == {k: type(v) for k, v in values.items()}
    assert index.get("shelf/2.jpg") is None


def test_unnamed_labels_keep_their_numbers_as_names(tmp_path: Path) -> None:
    image = vectors("a", [[1.0, 0.0], [0.0, 1.0]])
    assert new(tmp_path / "i", image, dim=2).get("a").regions.label_names == ("0", "1")


@pytest.mark.parametrize("name", ["\u96ea.jpg", "broken \udcff name.jpg", "a\nb", " "])
def test_any_text_is_an_id(tmp_path: Path, name: str) -> None:
    index = new(tmp_path / "i", described(name))
    assert [i.id for i in index.images()] == [name]
    assert index.search(described("q"), 1)[0].image == name
    assert index.delete([name]) == []
    assert len(index) == 0


def test_stamps_and_metadata_are_listed_in_the_order_of_adding(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", schema=UnitVectors(DIM), fingerprint="f")
    with index.writer() as writer:
        writer.add(described("b", x=1), stamp="10 s")
        writer.add(described("a"))
        writer.add(described("c", count=0), stamp="")
    index.delete(["a"])
    assert [tuple(i) for i in index.images()] == [("b", "10 s", {"x": 1}), ("c", "", {})]
    assert index.stamps() == {"b": "10 s", "c": ""}


def test_images_are_found_by_id_in_whatever_order_they_were_added(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", schema=UnitVectors(DIM), fingerprint="f")
    names = ["m", "b", "\u96ea", "broken \udcff", "a", "z", "ab", "aa"]
    for part in (names[:3], names[3:]):  # two segments
        with index.writer() as writer:
            for name in part:
                writer.add(described(name), stamp=f"stamp of {name}")
    with index.writer() as writer:  # one segment that holds an id twice
        writer.add(described("twice", 1), stamp="old")
        writer.add(described("twice", 2), stamp="new")
    index.delete(["b", "aa"])
    left = [name for name in [*names, "twice"] if name not in ("b", "aa")]
    assert index.stamps() == {name: index.stamp(name) for name in left}
    assert index.stamp("twice") == "new"
    assert same(index.get("twice"), described("twice", 2))
    assert all(name in index for name in left)
    for name in ("b", "aa", "", "0", "abc", "zz"):
        assert name not in index
        assert index.get(name) is None
        with pytest.raises(KeyError):
            index.stamp(name)


def test_the_state_shows_changes(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", 1))
    other, before = Index.open(tmp_path / "i"), index.state
    assert other.state == before
    index.delete(["a"])
    assert index.state != before
    assert other.state == before
    other.refresh()
    assert other.state == index.state


def test_adding_an_id_again_replaces_it_at_commit(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", 1), described("b", 2))
    with index.writer() as writer:
        writer.add(described("a", 3))
        writer.add(described("a", 4, count=1))
        assert same(Index.open(tmp_path / "i").get("a"), described("a", 1))
    assert same(index.get("a"), described("a", 4, count=1))
    assert index.info()["images"] == 2
    assert index.info()["regions"] == 4
    assert index.verify() == []


def test_internal_numbers_are_never_used_twice(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"), described("b"))
    index.delete(["b"])
    index.compact()
    again = Index.open(tmp_path / "i")
    with again.writer() as writer:
        writer.add(described("b", 7))
    numbers = [int(n) for s in again._snapshot.segments for n in s.numbers]
    assert numbers == [0, 2]
    assert again._snapshot.manifest.next_image == 3


def test_ids_are_looked_up_in_any_order(tmp_path: Path) -> None:
    names = [f"{n * 37 % 100}" for n in range(100)] + ["", "a", "\U0001f600", "broken \udcff", "1" * 300][1:]
    index = new(tmp_path / "i")
    with index.writer(flush_rows=150) as writer:  # several segments, of which one holds an id twice
        for n, name in enumerate(names):
            writer.add(described(name, n))
        writer.add(described(names[-1], 500))
        writer.add(described(names[3], 600))
    index.delete([names[5]])
    expected = {name: n for n, name in enumerate(names)} | {names[-1]: 500, names[3]: 600}
    del expected[names[5]]
    assert all(same(index.get(name), described(name, seed)) for name, seed in expected.items())
    for unknown in (names[5], "100", " ", "b", "\udcff"):
        assert index.get(unknown) is None
        assert unknown not in index


def test_deleting_reports_unknown_ids(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(4)))
    assert index.delete(["1", "x", "1", "3", "y"]) == ["x", "y"]
    assert [i.id for i in index.images()] == ["0", "2"]
    assert index.delete([]) == []
    assert Index.open(tmp_path / "i").info()["deleted_share"] == 0.5


def test_a_hit_says_which_box_matched_which(tmp_path: Path) -> None:
    index = new(
        tmp_path / "i",
        vectors("a", [[1.0, 0.0], [0.6, 0.8]], price=3),
        vectors("b", [[0.0, 1.0]]),
        vectors("c", [[-1.0, 0.0]]),
        dim=2,
    )
    query = vectors("q", [[0.0, -1.0], [0.8, 0.6]])
    result = index.search(query, 2, runners_up=2)
    assert [h.image for h in result] == ["a", "b"]
    first, second = result
    assert first.score == pytest.approx(0.96)
    assert first.box == (10, 0, 20, 10)
    assert first.query_box == (10, 0, 20, 10)
    assert first.label == "1"
    assert first.metadata == {"price": 3}
    assert [(round(r.score, 5), r.box[0], r.query_box[0]) for r in first.runners_up] == [(0.8, 0, 10), (0, 0, 0)]
    assert second.score == pytest.approx(0.6)
    assert [round(r.score, 5) for r in second.runners_up] == [-1]
    assert result.query_boxes == ((0, 0, 10, 10), (10, 0, 20, 10))
    assert SearchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_many_queries_give_the_same_as_one_by_one(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n, count=n % 5) for n in range(30)))
    with index.writer(flush_rows=7) as writer:
        for n in range(30, 60):
            writer.add(described(f"{n}", n, count=n % 5))
    index.delete(["3", "44"])
    queries = [described(f"q{n}", 100 + n, count=n % 3) for n in range(7)]
    together = index.search_many(queries, 5)
    assert together == [index.search(q, 5) for q in queries]
    assert [len(r) for r in together] == [0 if n % 3 == 0 else 5 for n in range(7)]
    assert index.search_many([]) == []


def test_search_equals_a_plain_loop(tmp_path: Path) -> None:
    images = [described(f"{n}", n, count=n % 4 + 1) for n in range(25)]
    index = new(tmp_path / "i", *images)
    query = described("q", 99, count=2)
    best = {i.image: float((i.vectors @ query.vectors.T).max()) for i in images}
    expected = sorted(best, key=lambda name: -best[name])
    found = index.search(query, 1000)
    assert [h.image for h in found] == expected
    assert [h.score for h in found] == pytest.approx([best[n] for n in expected], abs=1e-6)
    for hit in found:
        image = images[int(hit.image)]
        pairs = sorted((image.vectors @ query.vectors.T).flatten().tolist(), reverse=True)
        assert [hit.score, *(r.score for r in hit.runners_up)] == pytest.approx(pairs[:4], abs=1e-6)


def test_codes_change_nothing_but_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_engine, "MIN_CODES", 1)
    index = new(tmp_path / "i", *(described(f"{n}", n, count=n % 4) for n in range(40)))
    index.delete(["7"])
    query = described("q", 123)
    before = index.search(query, 20, where="label != can")
    assert all(index.search(query, 20, where="label != can") == before for _ in range(ENCODE_AFTER + 2))
    codes = index._searcher._exact._codes
    assert [vectors for vectors, _ in codes] == [id(index._snapshot.segments[0].columns["vectors"])]
    index.delete(["8"])
    assert len(index.search(query, 20)) == 20
    assert index._searcher._exact._codes is codes  # of what is still there, nothing is made again
    assert len(codes) == 1
    index.compact()
    gc.collect()
    assert not codes  # they go with the segment


def test_nothing_to_find(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    assert len(index.search(described("q"))) == 0
    assert len(index.search(described("q"), where="price < 3")) == 0
    assert index.verify() == []
    assert index.info()["deleted_share"] == 0.0
    with index.writer() as writer:
        writer.add(described("a", count=0, price=1))
    assert len(index) == 1
    assert len(index.search(described("q"))) == 0
    assert len(index.search(described("q", count=0))) == 0
    index.delete(["a"])
    assert len(index.search(described("q"))) == 0


def test_half_precision(tmp_path: Path) -> None:
    images = [described(f"{n}", n) for n in range(5)]
    index = new(tmp_path / "i", *images, dtype="float16")
    assert index.info()["dtype"] == "float16"
    assert index.verify() == []
    stored = torch.as_tensor(index.get("3").vectors)
    assert torch.equal(stored, torch.as_tensor(images[3].vectors).half().float())
    assert index.search(images[3], 1)[0].image == "3"


def test_mismatches_name_both_values(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    with pytest.raises(ArtefactMismatchError, match=r"'model-a'.*'model-b'"):
        index.search(described("q"), fingerprint="model-b")
    with pytest.raises(ArtefactMismatchError, match="dimension 8, found 5"):
        index.search(described("q", dim=5))
    with pytest.raises(ArtefactMismatchError, match=r"'model-a'.*'model-b'"):
        index.writer(fingerprint="model-b")
    with (
        index.writer(fingerprint="model-a") as writer,
        pytest.raises(ArtefactMismatchError, match="dimension 8, found 5"),
    ):
        writer.add(described("b", dim=5))
    assert len(index.search(described("q"), fingerprint="model-a")) == 1


@pytest.mark.parametrize(("k", "runners_up"), [(0, 3), (-1, 3), (2.0, 3), (1, -1)])
def test_wrong_numbers_are_refused(tmp_path: Path, k: int, runners_up: int) -> None:
    with pytest.raises(ValueError, match="expected an integer"):
        new(tmp_path / "i").search(described("q"), k, runners_up=runners_up)


def test_create_refuses_folders_that_are_in_use(tmp_path: Path) -> None:
    new(tmp_path / "i")
    with pytest.raises(IndexFolderError, match="found an index"):
        new(tmp_path / "i")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("precious")
    with pytest.raises(IndexFolderError, match=r"notes\.txt"):
        new(tmp_path / "other")
    with pytest.raises(IndexFolderError, match="found a file"):
        new(tmp_path / "other" / "notes.txt")
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == ["notes.txt"]


def test_create_goes_on_where_a_killed_creation_stopped(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "lock").write_text("99999999")
    (tmp_path / "i" / "manifest.tmp").write_text("half")
    assert len(new(tmp_path / "i", described("a"))) == 1
    assert not (tmp_path / "i" / "manifest.tmp").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": 4}, "schema: expected a row schema such as UnitVectors\\(512\\), found 4"),
        ({"fingerprint": ""}, "fingerprint: expected a non-empty string"),
    ],
)
def test_create_checks_its_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Index.create(tmp_path / "i", **{"schema": UnitVectors(4), "fingerprint": "f", **arguments})
    with pytest.raises(TypeError, match="model: expected values that JSON can hold"):
        Index.create(tmp_path / "i", schema=UnitVectors(4), fingerprint="f", model={"a": object()})
    assert not (tmp_path / "i").exists()


def test_open_says_what_is_there_instead(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match="found nothing"):
        Index.open(tmp_path / "missing")
    with pytest.raises(IndexFolderError, match="folder without a manifest"):
        Index.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(IndexFolderError, match="found a file"):
        Index.open(tmp_path / "file")


def test_info_and_model(tmp_path: Path) -> None:
    model = {"describer": {"name": "pooled_regions", "scales": [1.0]}}
    index = Index.create(tmp_path / "deep" / "i", schema=UnitVectors(4), fingerprint="f", model=model)
    info = Index.open(index.path).info()
    assert info["model"] == index.model == model
    assert json.loads(json.dumps(info)) == info
    assert {"images", "regions", "segments", "bytes", "dim", "dtype", "fingerprint", "created"} <= set(info)


def test_several_opened_indexes_see_changes_when_refreshed(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    other = Index.open(tmp_path / "i")
    index.delete(["a"])
    assert len(other) == 1
    assert other.search(described("q"))[0].image == "a"
    other.refresh()
    assert len(other) == 0


def test_zero_vectors_are_stored_and_score_zero(tmp_path: Path) -> None:
    index = new(tmp_path / "i", vectors("a", [[0.0, 0.0]]), dim=2)
    assert index.verify() == []
    assert index.search(vectors("q", [[1.0, 0.0]]))[0].score == 0


def test_remembered_filters_are_few(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", price=1))
    for price in range(20):
        assert len(index.search(described("q"), where=f"price = {price}")) == (price == 1)
    assert len(index._searcher._filtered) == REMEMBERED_FILTERS


def test_boxes_keep_every_bit(tmp_path: Path) -> None:
    box = torch.tensor([[1 / 3, math.pi, 99.99999, 100.0]])
    image = RegionDescriptors("a", Regions(box, (100, 100)), torch.tensor([[1.0, 0.0]]))
    hit = new(tmp_path / "i", image, dim=2).search(image)[0]
    assert torch.equal(torch.tensor([hit.box]), box)
    assert hit.query_box == hit.box


def test_a_query_that_is_indexed_need_not_find_itself(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(6)))
    query = replace(described("x", 2), image="2")
    everything = index.search(query, 10)
    assert everything[0].image == "2"
    for excluded in ("2", ["2"], {"2", "unknown"}, ("2", everything[1].image)):
        names = {excluded} if isinstance(excluded, str) else set(excluded)
        found = index.search(query, 3, exclude=excluded)
        assert list(found) == [hit for hit in everything if hit.image not in names][:3]
    assert len(index.search(query, 6, exclude="2")) == 5
    assert len(index.search(query, 6, exclude=[f"{n}" for n in range(6)])) == 0


def test_every_query_leaves_out_its_own(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(6)))
    queries = [described(f"{n}", n) for n in range(6)]
    found = index.search_many(queries, 5, exclude=[q.image for q in queries])
    assert [r.query_image in {h.image for h in r} for r in found] == [False] * 6
    assert [list(r) for r in found] == [list(index.search(q, 5, exclude=q.image)) for q in queries]
    with pytest.raises(TypeError, match="exclude: expected a list with an entry for each query, found"):
        index.search_many(queries, exclude="012345")
    with pytest.raises(ValueError, match="exclude: expected a list with an entry for each of 6 queries, found 2"):
        index.search_many(queries, exclude=["0", "1"])


def test_scores_below_the_least_are_left_out(tmp_path: Path) -> None:
    index = new(
        tmp_path / "i", vectors("a", [[1.0, 0.0]]), vectors("b", [[0.8, 0.6]]), vectors("c", [[0.0, 1.0]]), dim=2
    )
    query = vectors("q", [[1.0, 0.0]])
    assert [h.image for h in index.search(query, min_score=0.5)] == ["a", "b"]
    assert [h.image for h in index.search(query, min_score=1)] == ["a"]
    assert [h.image for h in index.search(query, min_score=-1)] == ["a", "b", "c"]
    assert len(index.search(query, min_score=1.5)) == 0
    with pytest.raises(TypeError, match=r"min_score: expected a number, found '0.5'"):
        index.search(query, min_score="0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize("query", ["photo.jpg", Path("photo.jpg"), b"bytes", None, np.zeros((4, 4, 3), np.uint8)])
def test_what_is_no_described_photo_is_refused_with_advice(tmp_path: Path, query: object) -> None:
    index = new(tmp_path / "i", described("a"))
    with pytest.raises(TypeError, match=r"index\.search\(model\.query\('photo\.jpg'\)\), found "):
        index.search(query)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"queries: expected a list of descriptions, found a single one"):
        index.search_many(described("q"))  # type: ignore[arg-type]


def test_an_id_is_in_the_index_or_not(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"), described("b \udcff"))
    index.delete(["a"])
    assert "b \udcff" in index
    assert "a" not in index
    assert "" not in index
    assert 5 not in index


def test_an_index_travels_to_another_process(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert other.search(described("q")) == index.search(described("q"))


def test_k_beyond_all_images_takes_no_memory(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(3)))
    queries = [described("q", n) for n in range(50)]
    index.search_many(queries)
    tracemalloc.start()
    found = index.search_many(queries, 10**9, exclude=["0"] * 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(r) for r in found] == [2] * 50
    assert peak < 5_000_000


@pytest.mark.parametrize("wrong", [np.inf, np.nan, 1e30, 30.0])
@pytest.mark.parametrize("repeated", [1, 40])
def test_a_damaged_vector_is_damage_and_no_hit(tmp_path: Path, wrong: float, repeated: int) -> None:
    index = new(tmp_path / "i", *(vectors(f"{n}", [[0.6, 0.8]]) for n in range(5)), dim=2)
    path = next(index.path.glob("*.vectors"))
    numbers = np.fromfile(path, "<f4")
    numbers[4] = wrong
    numbers.tofile(path)
    opened = Index.open(index.path)
    queries = [vectors("q", [[0.8, 0.6], [1.0, 0.0]])] * repeated  # many queries use codes
    with pytest.raises(DamagedIndexError, match=r"i: expected .*vectors.*'objemb verify' tells which file"):
        opened.search_many(queries)


def test_the_newest_state_is_another_object(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", 1), described("b", 2))
    assert index.newest() is index
    Index.open(tmp_path / "i").delete(["a"])
    newest = index.newest()
    assert ("a" in index, "a" in newest) == (True, False)
    found, left = index.search(described("a", 1), 5), newest.search(described("a", 1), 5)
    assert [h.image for h in found] == ["a", "b"]
    assert [h.image for h in left] == ["b"]
    other = Index.create(tmp_path / "other", schema=index.schema, fingerprint="another model")
    (tmp_path / "i").rename(tmp_path / "moved")
    other.path.rename(tmp_path / "i")
    with pytest.raises(ArtefactMismatchError, match="it was replaced by another index"):
        index.newest()
    assert "a" in index


def test_images_from_a_number_on(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    names = [f"{n}" for n in range(9)]
    for first in (0, 4, 5):  # three segments
        with index.writer() as writer:
            for name in names[first : {0: 4, 4: 5, 5: 9}[first]]:
                writer.add(described(name, int(name)))
    index.delete(["1", "4"])
    left = [name for name in names if name not in ("1", "4")]
    assert len(index._snapshot.segments) > 1
    for start in range(10):
        assert [image.id for image in index.images(start)] == left[start:]
    with pytest.raises(ValueError, match="start: expected an integer of 0 or more, found -1"):
        index.images(-1)


def test_columns_and_labels(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    assert (index.columns(), index.labels()) == ([], [])
    with index.writer() as writer:
        writer.add(replace(described("a", 1), metadata={"price": 1, "shelf": "x"}))
        writer.add(replace(described("b", 2), metadata={"best before": None}))
    assert index.columns() == ["best before", "price", "shelf"]
    assert index.labels() == sorted({label for label in described("a", 1).regions.label_names if label is not None})


def test_hits_are_named_together(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", 1, price=1), described("none", 2, count=0, price=2))
    with index.writer() as writer:  # a second segment
        for name in ("b", "c"):
            writer.add(described(name, ord(name), price=ord(name)))
    index.delete(["b"])
    found = index.search(described("q", 9), 9, runners_up=0)
    assert len(found) == 2
    bare = index.search_many([described("q", 9)], 9, runners_up=0, named=False)[0]
    assert index.named(bare.hits) == list(found)
    moved = [replace(hit, box=(0.0, 0.0, 1.0, 1.0)) for hit in found]
    assert [hit.label for hit in index.named(moved)] == [None, None]
    assert index.named([]) == []
    nowhere = replace(found[0], image="none", box=(0.0, 0.0, 1.0, 1.0))
    assert index.named([nowhere])[0].metadata == {"price": 2}
    assert index.rows_of_images(["none", "c", "none", "a"]).items.tolist() == [1, 1, 1, 3, 3, 3]
    with pytest.raises(KeyError, match="b"):
        index.named([replace(found[0], image="b")])


def test_ids_of_hits_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"first {n}", n) for n in range(3)))
    with index.writer() as writer:  # a second segment
        for n in range(3, 9):
            writer.add(described(f"then {n}", n))
    index.delete(["first 1"])
    query = described("q", 99)
    named, (bare,) = index.search(query, 9), index.search_many([query], 9, runners_up=0, named=False)
    ids = [hit.image for hit in named]
    assert list(bare.images) == list(bare.images[:]) == ids
    assert (list(bare.images[2:4]), bare.images[-1]) == (ids[2:4], ids[-1])
    with pytest.raises(IndexError):
        _ = bare.images[8]

    def rows(images: Sequence[str]) -> list[object]:
        found = index.rows_of_images(images)
        return [list(found.images), found.items.tolist(), found.vectors.tolist(), found.boxes.tolist()]

    before = rows(ids[1:6])
    assert rows(bare.images[1:6]) == before
    index.delete([ids[0]])
    assert index.compact()
    assert rows(bare.images[1:6]) == before, "the numbers of an earlier state are not those of this one"
