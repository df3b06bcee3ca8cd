from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from objemb.datasets.ingredients import find_pictures, instance_names, split_names
from objemb.images import ImageRef, UnreadableImageError
from tests.datasets.pictures import write_ingredients


def ref(id: str, path: str = "/x", **metadata: str) -> ImageRef:
    return ImageRef(id, Path(path), metadata)


def test_names_of_their_own() -> None:
    name = instance_names(None)
    assert name(ref("tea/front.jpg")) == "tea"
    assert name(ref("drinks/tea/front.jpg")) == "drinks/tea"
    assert name(ref("tea.jpg")) == "tea"
    assert name(ref("/elsewhere/tea.jpg")) == "tea"
    assert name(ref("a/b.jpg", instance="cup")) == "cup"


def test_names_from_files(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("file,instance\nimages/a.jpg,tea\nb.jpg,cup\n")
    (tmp_path / "names.json").write_text(json.dumps({"images/a.jpg": "tea", "b.jpg": "cup"}))
    rows = {"images": [{"file": "images/a.jpg", "instance": "tea"}], "queries": [{"file": "b.jpg", "instance": "cup"}]}
    (tmp_path / "set.json").write_text(json.dumps(rows))
    for file in ("names.csv", "names.json", "set.json"):
        name = instance_names(tmp_path / file)
        assert name(ref("a.jpg", str(tmp_path / "images" / "a.jpg"))) == "tea"  # by path
        assert name(ref("b.jpg", "/elsewhere/b.jpg")) == "cup"  # by id
        assert name(ref("c.jpg")) is None


@pytest.mark.parametrize(
    "header", ["path,instance", "file,instance", "image,label", "File;Instance", "filename\tlabel", "x1,image,instance"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_tables_of_names(header: str, encoding: str, tmp_path: Path) -> None:
    delimiter = next(d for d in ",;\t" if d in header)
    rows = [["images/a.jpg", "größe 7\u2028x" if encoding != "cp1252" else "größe 7"], [r"images\b.jpg", "two\nlines"]]
    rows += [["c.jpg", ""], ["gone\0.jpg", "none"]]
    first = ["5"] if header.startswith("x1") else []
    lines = [header, *(delimiter.join([*first, row[0], f'"{row[1]}"']) for row in rows), "too;many,cells\there,a,b,c"]
    (tmp_path / "names.csv").write_bytes("\n".join(lines).encode(encoding))
    for name in "ab":
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{name}.jpg").touch()
    name = instance_names(tmp_path / "names.csv")
    assert name(ref("a.jpg", str(tmp_path / "images" / "a.jpg"))) == rows[0][1]
    assert name(ref("b.jpg", str(tmp_path / "images" / "b.jpg"))) == "two\nlines"
    assert name(ref("c.jpg")) is None


def test_numbers_as_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["a.jpg", "b.jpg"], "instance": [7.0, float("nan")]}), tmp_path / "n.parquet")
    name = instance_names(tmp_path / "n.parquet")
    assert (name(ref("a.jpg")), name(ref("b.jpg"))) == ("7", None)
    (tmp_path / "n.csv").write_text("path,instance\na.jpg,007\nb.jpg,8\n")
    name = instance_names(tmp_path / "n.csv")
    assert (name(ref("a.jpg")), name(ref("b.jpg"))) == ("007", "8")
    assert instance_names(None)(ref("a/b.jpg", label="cup")) == "cup"
    assert instance_names(None)(ImageRef("a/b.jpg", Path("/x"), {"instance": 7.0})) == "7"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.csv", "path,name\na,b\n"),
        ("a.csv", "instance\ntea\n"),
        ("a.json", "[1]"),
        ("a.json", "{"),
        ("a.json", '{"images": [3]}'),
        ("a.json", '{"images": [{"file": "a.jpg"}]}'),
        ("a.json", "[" * 100_000),
    ],
)
def test_wrong_files_of_names(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(
        ValueError, match=r"expected (a column '(instance|path)'|JSON {path: instance} or of an evaluation set)"
    ):
        instance_names(tmp_path / file)
    with pytest.raises(ValueError, match="no such file"):
        instance_names(tmp_path / "none.csv")


def test_pictures_of_no_use_are_listed(tmp_path: Path) -> None:
    products, _ = write_ingredients(tmp_path, products=2, views=2)

    def read(path: Path) -> None:
        if path.name == "1.png":
            raise UnreadableImageError("bad light")

    found = find_pictures([products], read, lambda r: "tea" if r.id.startswith("item0") else None)
    assert [(p.id, p.instance) for p in found.usable] == [("item0/0.png", "tea")]
    assert {s.id: s.reason for s in found.skipped} == {
        "item0/1.png": "bad light",
        "item1/0.png": "it has no instance name",
        "item1/1.png": "it has no instance name",
    }


def test_held_out_names() -> None:
    names = [f"p{n}" for n in range(8)] * 2
    train, val = split_names(names, 0.25, (), 0)
    assert (len(train), len(val)) == (6, 2)
    assert sorted(train + val) == sorted(set(names))
    assert split_names(names, 0.25, (), 0) == (train, val)
    assert any(split_names(names, 0.25, (), seed)[1] != val for seed in range(1, 5))
    assert split_names(names, 0.9, ("p3", "p[67]"), 0)[1] == ["p3", "p6", "p7"]
    assert split_names(["a", "b"], 0.01, (), 0)[1] != []
    assert split_names(["a", "b"], 0, (), 0) == (["a", "b"], [])
    assert split_names(["a"], 0.5, (), 0) == (["a"], [])
    assert split_names([], 0.5, (), 0) == ([], [])
    with pytest.raises(ValueError, match=r"held_out: expected patterns of .*, found 'x\*'"):
        split_names(names, 0.25, ("x*",), 0)
    with pytest.raises(ValueError, match="expected at least one name to be left for training"):
        split_names(names, 0.25, ("*",), 0)
