"""Filters on rows: truth, missing values, types, unknown fields."""

from __future__ import annotations

import math
import tracemalloc
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path

import numpy as np
import pytest
import torch

from objemb.index.filters.columns import Column
from objemb.index.filters.evaluate import evaluate
from objemb.index.filters.parser import parse
from objemb.index.filters.syntax import Compare, Node, OneOf, WhereError
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions, Scalar
from tests.index.made import described

IMAGES: dict[str, dict[str, Scalar]] = {
    "a": {"price": 3, "name": "apple", "sold": True, "mixed": 1},
    "b": {"price": 4.5, "name": "berry", "sold": False, "mixed": "1"},
    "c": {"price": None, "name": "it's", "mixed": True, "label": "own"},
    "d": {"name": "", "best before": "2024-05-01", "code": 2**62 + 1},
    "e": {"price": float("nan"), "code": 2**62},
    "f": {"price": -2},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.create(tmp_path_factory.mktemp("filters") / "i", schema=UnitVectors(2), fingerprint="f")
    with made.writer(flush_rows=5) as writer:  # several segments
        for name, metadata in IMAGES.items():
            regions = Regions(
                torch.tensor([[0.0, 0, 9, 9], [1, 1, 2, 2], [3, 3, 4, 4]]),
                (9, 9),
                torch.tensor([1.0, 0.9, 0.25]),
                torch.tensor([-1, 0, 1]),
                ("bottle", "can"),
            )
            vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
            writer.add(RegionDescriptors(name, regions, vectors, metadata))
    return made


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("price < 4", "af"),
        ("price <= 4.5", "abf"),
        ("price = 3.0", "a"),
        ("price != 3", "bf"),
        ("not price = 3", "bf"),
        ("price is null", "cde"),
        ("price is not null", "abf"),
        ("not (price < 4 or price is null)", "b"),
        ("price > 0 and sold = false", "b"),
        ("price in (3, -2)", "af"),
        ("price not in (3, -2)", "b"),
        ("sold = true", "a"),
        ("sold != true", "b"),
        ("name = ''", "d"),
        ("name = 'it''s'", "c"),
        ("name < b", "ad"),
        ("name >= 'berry'", "bc"),
        ("`best before` > '2024-01-01'", "d"),
        ("image in (a, e, x)", "ae"),
        ("image >= 'e'", "ef"),
        ("mixed = 1", "a"),
        ("mixed = '1'", "b"),
        ("mixed = true", "c"),
        ("mixed in (1, '1', true)", "abc"),
        ("mixed != 2", "a"),
        ("code = 4611686018427387904", "e"),
        ("metadata.label = own", "c"),
        ("metadata.price = 3", "a"),
        ("price < 4 or name = berry and sold = false", "abf"),
        ("price < -10", ""),
        ("image = a and image = b", ""),
    ],
)
def test_images(index: Index, where: str, found: str) -> None:
    query = described("q", dim=2, count=1)
    assert "".join(sorted(h.image for h in index.search(query, 100, where=where))) == found
    assert "".join(index.find(where)) == found


@pytest.mark.parametrize(
    ("where", "boxes"),
    [
        ("label = can", [(3, 3, 4, 4)]),
        ("label in (bottle, can)", [(1, 1, 2, 2), (3, 3, 4, 4)]),
        ("label is null", [(0, 0, 9, 9)]),
        ("label != can", [(1, 1, 2, 2)]),
        ("label < c", [(1, 1, 2, 2)]),
        ("score = 0.9", [(1, 1, 2, 2)]),
        ("score >= 0.9", [(0, 0, 9, 9), (1, 1, 2, 2)]),
        ("score < 0.5 and price = 3", [(3, 3, 4, 4)]),
    ],
)
def test_rows_and_their_runners_up(index: Index, where: str, boxes: list[tuple[float, ...]]) -> None:
    """A region that the filter drops is neither a hit nor a runner-up."""
    query = RegionDescriptors("q", Regions.whole((9, 9)), torch.tensor([[1.0, 0.0]]))
    hit = index.search(query, 1, where=where)[0]
    assert [hit.box, *(r.box for r in hit.runners_up)] == boxes


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("prize < 5", r"unknown field 'prize' \(did you mean 'price'\?\); known fields: 'label', 'score', 'image'"),
        ("metadata.nothing = 1", "unknown field 'metadata.nothing'"),
        ("price < 'a'", "price: expected number, found the text 'a'"),
        ("price in (1, two)", "price: expected number, found the text 'two'"),
        ("label = 5", "label: expected text, found the number 5; write '5' in quotes"),
        ("sold = 1", "sold: expected boolean, found the number 1"),
        ("sold < true", "sold: expected = or !="),
        ("score = high", "score: expected number, found the text 'high'"),
        ("price <", "position 8"),
    ],
)
def test_messages(index: Index, where: str, message: str) -> None:
    with pytest.raises(WhereError, match=message):
        index.search(described("q", dim=2), where=where)


def test_deleted_images_do_not_match(index: Index, tmp_path: Path) -> None:
    copy = Index.create(tmp_path / "copy", schema=UnitVectors(2), fingerprint="f")
    copy.merge([index])
    copy.delete(["a"])
    assert [h.image for h in copy.search(described("q", dim=2), where="price >= 0")] == ["b"]
    assert len(copy.search(described("q", dim=2), where="image = a")) == 0
    assert copy.find("image <= c") == ["b", "c"]


def test_unknown_fields_leave_no_trace(index: Index) -> None:
    """A server must not grow with what is asked of it in vain."""
    for n in range(5):
        with pytest.raises(WhereError):
            index.search(described("q", dim=2), where=f"unknown{n} = 1")
    assert not any("unknown" in name for s in index._searcher._filters._derived.values() for name in s.columns)


def test_thousands_of_terms_take_the_memory_of_a_few() -> None:
    column = Column(np.arange(20_000, dtype=np.int32) % 100, list(range(100)))
    few, many = (parse(" or ".join(f"a = {n % 200}" for n in range(count))) for count in (10, 2000))

    def peak(node: Node) -> int:
        tracemalloc.start()
        evaluate(node, {"a": column})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(few)
    assert peak(many) < 2 * peak(few)
    assert evaluate(many, {"a": column})[0].all()


@pytest.mark.parametrize("comparison", ["=", "!=", "<", "<=", ">", ">="])
def test_comparisons_of_columns_agree_with_python(comparison: str) -> None:
    """Numbers beyond the exact floats, both kinds of zero, ties of integers and floats."""
    values = [3, 3.0, -0.0, 0, 2**53, 2**53 + 1, float(2**53), -1.5, "b", "a", "", True, False, None, math.inf]
    holds = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}[comparison]
    column = Column(np.array([*range(len(values)), -1], np.int32), values)
    kinds = [None if v is None else "t" if isinstance(v, str) else "b" if isinstance(v, bool) else "n" for v in values]
    for literal, kind in (
        (3, "n"),
        (0.0, "n"),
        (2**53 + 1, "n"),
        (-7, "n"),
        (99.5, "n"),
        ("a", "t"),
        ("zz", "t"),
        (True, "b"),
    ):
        true, false = evaluate(Compare("a", comparison, literal), {"a": column})
        assert true.tolist() == [k == kind and holds(v, literal) for k, v in zip(kinds, values, strict=True)] + [False]
        assert false.tolist() == [k == kind and not holds(v, literal) for k, v in zip(kinds, values, strict=True)] + [
            False
        ]


def test_one_of_many_agrees_with_comparing_each() -> None:
    values = [3, 3.0, 4, "3", True, None, 1]
    column = Column(np.arange(-1, 7, dtype=np.int32), values)
    true, false = evaluate(OneOf("a", (1, "3", 3, "x", False)), {"a": column})
    assert true.tolist() == [False, True, True, False, True, False, False, True]
    assert false.tolist() == [False, False, False, True, False, True, False, False]
