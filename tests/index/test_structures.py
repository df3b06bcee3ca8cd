"""The approximate structure as part of an index: published, used, dropped, refused when damaged."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import objemb.index.searcher as searcher
from objemb.checks import DamagedIndexError, IndexWriteError
from objemb.index.engines._ivf import IvfEngine
from objemb.index.store import Index
from tests.index.made import described, new, publish, store_file

pytest.importorskip("faiss")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = new(tmp_path / "i", *(described(f"{n}", n) for n in range(60)))
    made.build_structure()
    return made


@pytest.mark.parametrize("exact", [False, None])
def test_it_finds_what_exact_search_finds(index: Index, monkeypatch: pytest.MonkeyPatch, exact: bool | None) -> None:
    """Rows that are newer than the structure included, deleted and filtered ones excluded."""
    monkeypatch.setattr(searcher, "APPROXIMATE_ROWS", 100)
    with index.writer() as writer:
        for n in range(60, 70):
            writer.add(described(f"{n}", n))
    index.delete(["5", "65"])
    for where in (None, "label = can"):
        for n in (3, 5, 65, 66):
            query = described("q", n)
            found, expected = (index.search(query, 5, exact=way, where=where) for way in (exact, True))
            assert found.hits == expected.hits
            assert not expected.approximate
    assert index._searcher._structures
    assert len(index.search(described("q", 1), 100, exact=False)) == 68
    assert index.info()["approximate"] == "ivf_sq8"
    assert index.verify() == []


def test_small_indexes_are_searched_exactly_by_default(index: Index) -> None:
    index.search(described("q"))
    assert not index._searcher._structures
    index.search(described("q"), exact=False)
    assert index._searcher._structures
    loaded = index._searcher._structures[0][1]
    index.delete(["1"])
    assert index._searcher._structures[0][1] is loaded


def test_without_a_structure(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    with pytest.raises(ValueError, match="expected a search structure, found none; 'build_structure' makes one"):
        new(tmp_path / "j", described("a")).search(described("q"), exact=False)
    with pytest.raises(ValueError, match="at least one row"):
        index.build_structure()
    with pytest.raises(ValueError, match="'ivf_rabitq', 'ivf_sq8'"):
        index.build_structure("hnsw")
    assert sorted(p.name for p in index.path.iterdir()) == ["lock", "manifest"]


def test_compacting_drops_or_rebuilds_it(index: Index) -> None:
    index.delete(["1"])
    assert index.compact(rebuild=True)
    assert index.info()["approximate"] == "ivf_sq8"
    assert index.search(described("q", 7), 1, exact=False)[0].image == "7"
    index.delete(["2"])
    assert index.compact()
    assert index.info()["approximate"] is None
    assert not list(index.path.glob("*.ann"))


def test_the_share_that_it_covers(index: Index) -> None:
    assert index.info()["approximate_share"] == 1
    with index.writer() as writer:
        for n in range(60, 80):
            writer.add(described(f"{n}", n))
    assert index.info()["approximate_share"] == pytest.approx(0.75)
    index.delete(["70"])
    index.compact()
    assert index.info()["approximate_share"] == 0


def test_an_old_state_goes_on_exactly(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "APPROXIMATE_ROWS", 100)
    reader = Index.open(index.path)
    expected = index.search(described("q", 7), exact=True)
    index.delete(["1"])
    index.compact()
    assert reader.search(described("q", 7)).hits == expected.hits
    assert reader.search(described("q", 7), exact=False).hits == expected.hits


def test_a_damaged_file_never_reaches_faiss(index: Index) -> None:
    path = next(index.path.glob("*.ann"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert path.name in index.verify()[0]
    opened = Index.open(index.path)
    with pytest.raises(DamagedIndexError, match="SHA-256"):
        opened.search(described("q"), exact=False)
    assert len(opened.search(described("q"))) == 10


def test_without_faiss_search_is_exact_and_says_why(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(searcher, "APPROXIMATE_ROWS", 100)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level(logging.WARNING):
        assert len(Index.open(index.path).search(described("q"))) == 10
    assert "pip install 'objemb[ann]'" in caplog.text
    with pytest.raises(ImportError, match=r"objemb\[ann\]"):
        Index.open(index.path).search(described("q"), exact=False)
    with pytest.raises(ImportError, match=r"objemb\[ann\]"):
        index.build_structure()


def test_failing_to_build_leaves_nothing_behind(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    import objemb.index.structures as structures

    write = structures.NewFile.write

    def fail(file: object, data: bytes) -> None:
        write(file, data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(structures.NewFile, "write", fail)
    before = sorted(index.path.iterdir())
    with pytest.raises(IndexWriteError, match="No space left"):
        index.build_structure()
    assert sorted(index.path.iterdir()) == before


def test_several_structures_are_asked_in_turn(index: Index) -> None:
    with index.writer() as writer:
        for n in range(60, 90):
            writer.add(described(f"{n}", n))
    index.build_structure({"name": "ivf_pq", "lists": 2}, keep=True)
    records = index._snapshot.manifest.structures
    assert [(s.engine, s.settings, s.segments) for s in records] == [
        ("ivf_pq", {"lists": 2, "seed": 0}, 2),
        ("ivf_sq8", {"lists": None, "seed": 0}, 1),
    ]
    assert index.search(described("q", 70), 1, exact=False)[0].image == "70"
    assert [record.engine for record, _ in index._searcher._structures] == ["ivf_pq"]
    assert index.verify() == []
    index.delete(["1"])
    index.compact(rebuild=True)
    assert [s.engine for s in index._snapshot.manifest.structures] == ["ivf_pq", "ivf_sq8"]
    assert index._snapshot.manifest.structures[0].settings == {"lists": 2, "seed": 0}
    index.build_structure()
    assert [s.engine for s in index._snapshot.manifest.structures] == ["ivf_sq8"]
    assert len(list(index.path.glob("*.ann"))) == 1


def test_a_structure_of_few_rows_is_used_only_on_request(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "APPROXIMATE_ROWS", 100)
    for first in (60, 180):
        assert index._snapshot.covered_share(index._snapshot.manifest.structures[0]) >= searcher.MIN_SHARE
        with index.writer() as writer:
            for n in range(first, 2 * first):
                writer.add(described(f"{n}", n))
    assert index.info()["approximate_share"] == pytest.approx(60 / 300)
    assert index.search(described("q", 200), 1)[0].image == "200"
    assert not index._searcher._structures
    assert index.search(described("q", 200), 1, exact=False)[0].image == "200"
    assert index._searcher._structures


def forged(index: Index, **changes: object) -> Index:
    """The index with another record of its structure, as a stranger may have written it."""
    manifest = index._snapshot.manifest
    publish(index.path, replace(manifest, structures=(replace(manifest.structures[0], **changes),)))
    return Index.open(index.path)


def test_an_engine_that_is_not_installed(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(searcher, "APPROXIMATE_ROWS", 100)
    other = forged(index, engine="os")
    with caplog.at_level(logging.WARNING):
        assert len(other.search(described("q"))) == 10
    assert "exactly: the engine 'os' of a search structure is not installed" in caplog.text
    with pytest.raises(ImportError, match="'os'"):
        other.search(described("q"), exact=False)
    assert other.verify() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"lists": "many"}}, "search structure of 'ivf_sq8': lists: expected an integer"),
        ({"settings": {"folder": "/"}}, "unknown key 'folder'"),
        ({"engine": "ivf_pq"}, r"\.ann: expected an inverted file of 'ivf_pq', found IndexIVFScalarQuantizer"),
        ({"files": {}}, "expected the file 'index' of an inverted file, found"),
        ({"segments": 0}, r"\.ann: expected a search structure of the 0 rows of 0 segments, found one of 180"),
        ({"segments": 2}, r"\.ann: expected a search structure of the 210 rows of 2 segments, found one of 180"),
    ],
)
def test_forged_records_of_structures(index: Index, changes: dict[str, object], message: str) -> None:
    with index.writer() as writer:
        for n in range(60, 70):
            writer.add(described(f"{n}", n))
    changed = forged(index, **changes)
    with pytest.raises(DamagedIndexError, match=message):
        changed.search(described("q"), exact=False)
    (problem,) = changed.verify()
    assert re.search(message, problem)


def test_a_forged_structure_of_other_vectors(index: Index, tmp_path: Path) -> None:
    other = new(tmp_path / "other", *(described(f"{n}", n, dim=4) for n in range(60)), dim=4)
    other.build_structure()
    content = next(other.path.glob("*.ann")).read_bytes()
    record = store_file(index.path, "00000500.ann", content)
    publish(index.path, replace(index.state, next_file=501))
    with pytest.raises(DamagedIndexError, match=r"00000500\.ann: expected .* vectors of length 8, found 4"):
        forged(Index.open(index.path), files={"index": record}).search(described("q"), exact=False)


def test_an_engine_that_is_exact_answers_exact_searches(index: Index) -> None:
    """The engine ``exact`` itself, which stores no file."""
    index.build_structure("exact", keep=True)
    assert [s.engine for s in index._snapshot.manifest.structures] == ["exact", "ivf_sq8"]
    assert index._snapshot.manifest.structures[0].files == {}
    assert index.search(described("q", 7), 3, exact=True)[0].image == "7"
    assert [record.engine for record, _ in index._searcher._structures] == ["exact"]


def test_an_engine_for_other_rows(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IvfEngine, "accepts", frozenset({"visual_words"}))
    with pytest.raises(ValueError, match="expected rows of 'visual_words', found an index of 'unit_vectors'"):
        index.build_structure()
    with pytest.raises(DamagedIndexError, match="the engine 'ivf_sq8' cannot search the rows of this index"):
        Index.open(index.path).search(described("q"), exact=False)


def test_the_engine_of_a_structure_is_looked_up_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.search(described("q"), exact=False)

    def looked_up(*args: object) -> None:
        raise AssertionError("expected no further look-up of an engine")

    monkeypatch.setattr(searcher, "engine_of", looked_up)
    assert index.search(described("q"), exact=False).approximate
    assert not index.search(described("q"), exact=True).approximate
