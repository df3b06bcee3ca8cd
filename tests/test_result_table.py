from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
import pytest

from objemb.structures import Match, QueryView, SearchResult

BOX, OTHER = (1.0, 2.0, 30.5, 40.0), (0.0, 0.0, 5.0, 6.0)


def found(*metadata: dict[str, Any]) -> SearchResult:
    hits = tuple(
        Match(f"{n}.jpg", 0.75 - n / 8, BOX, OTHER, "cup" if n == 0 else None, one, view=n % 2)
        for n, one in enumerate(metadata)
    )
    return SearchResult("q.jpg", (OTHER,), hits, more_views=(QueryView("r.jpg", (OTHER,)),))


def test_a_row_per_hit() -> None:
    table = found({"price": 3, "label": "x"}, {"price": 2.5}, {}).to_arrow()
    assert table.to_pylist() == [
        {
            "query": query,
            "rank": rank,
            "image": image,
            "score": score,
            "p_false": None,
            **dict(zip(("x1", "y1", "x2", "y2"), BOX, strict=True)),
            "label": label,
            "view": view,
            **dict(zip(("query_x1", "query_y1", "query_x2", "query_y2"), OTHER, strict=True)),
            "metadata.price": price,
            "metadata.label": own,
        }
        for query, rank, image, score, label, view, price, own in [
            ("q.jpg", 1, "0.jpg", 0.75, "cup", 0, 3.0, "x"),
            ("r.jpg", 2, "1.jpg", 0.625, None, 1, 2.5, None),
            ("q.jpg", 3, "2.jpg", 0.5, None, 0, None, None),
        ]
    ]


def test_columns_have_the_same_types_without_hits() -> None:
    some, none = found({}).to_arrow().schema, found().to_arrow().schema
    assert some == none
    assert [str(field.type) for field in none] == (
        ["string", "int32", "string", "double", "double", *["float"] * 4, "string", "int32", *["float"] * 4]
    )


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 2], "int64", [1, None, 2]),
        ([True, None, False], "bool", [True, None, False]),
        ([1, 0.5, None], "double", [1.0, 0.5, None]),
        (["1", 2, None], "string", ["1", "2", None]),
        ([True, 1, 0.5], "string", ["true", "1", "0.5"]),
        ([2**80, 1, None], "string", [str(2**80), "1", None]),
        ([2**53 + 1, 0.5, 1], "string", [str(2**53 + 1), "0.5", "1"]),
        ([None, None, None], "null", [None] * 3),
        (["\udc80.jpg", "\u202e", "é"], "string", ["\\udc80.jpg", "\u202e", "é"]),
    ],
)
def test_types_of_metadata(values: list[Any], kind: str, expected: list[Any]) -> None:
    column = found(*({"a": value} for value in values)).to_arrow()["metadata.a"]
    assert (str(column.type), column.to_pylist()) == (kind, expected)


def test_names_that_are_no_utf8_are_escaped() -> None:
    table = SearchResult("\udc80", (OTHER,), (Match("\ud800", 0.5, BOX, OTHER, "\udfff", {"\udc81": 1}),)).to_arrow()
    assert table.select(["query", "image", "label"]).to_pylist() == [
        {"query": "\\udc80", "image": "\\ud800", "label": "\\udfff"}
    ]
    assert table.column_names[-1] == "metadata.\\udc81"


def test_tables_of_several_results_are_joined() -> None:
    tables = [found({"a": 1}).to_arrow(), found({"b": "x"}).to_arrow()]
    joined = pa.concat_tables(tables, promote_options="default")
    assert joined.select(["metadata.a", "metadata.b"]).to_pylist() == [
        {"metadata.a": 1, "metadata.b": None},
        {"metadata.a": None, "metadata.b": "x"},
    ]


def test_a_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = found({"price": 3}, {}).to_pandas()
    assert frame["image"].tolist() == ["0.jpg", "1.jpg"]
    assert frame["score"].tolist() == [0.75, 0.625]
    assert frame["metadata.price"].isna().tolist() == [False, True]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas: expected pandas, found none; pip install 'objemb\[pandas\]'"):
        found({}).to_pandas()
