"""Lists, tables and COCO files as sources of photos."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from objemb.images import ImageRef, SkippedImage, find_images
from tests.images.listing import ids, refs, touch
from tests.images.samples import write

SHARED = Path(__file__).parents[3] / "shared" / "data"


# --- lists ---


def test_a_list_of_paths(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "o.jpg"
    text = "\ufeff# photos of May\n\na.jpg\n  ./sub/b.jpg  \r\n../up.jpg\n"
    text += f"{tmp_path}/lists/c.jpg\n{outside}\n#x.jpg\nd#.jpg"
    source = write(tmp_path / "lists" / "may.txt", text.encode())
    found = refs(source)
    assert [f.id for f in found] == ["a.jpg", "sub/b.jpg", "../up.jpg", "c.jpg", outside.as_posix(), "d#.jpg"]
    assert found[0].path == tmp_path / "lists" / "a.jpg"
    assert found[4].path == outside


def test_ids_do_not_depend_on_how_the_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "list.txt", f"a.jpg\n{tmp_path}/b.jpg".encode())
    monkeypatch.chdir(tmp_path)
    assert ids("list.txt") == ids("./list.txt") == ids(tmp_path / "list.txt") == ["a.jpg", "b.jpg"]


def test_a_list_with_impossible_paths(tmp_path: Path) -> None:
    source = write(tmp_path / "list.txt", b"nul\0byte.jpg\n" + b"long" * 3000 + b"\nok.jpg")
    assert [f.id for f in refs(source)][::2] == ["nul\0byte.jpg", "ok.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("list.txt", b"", "found none$"),
        ("list.txt", b"# nothing yet\n\n", "found none$"),
        (
            "list.txt",
            b"https://a.b/c.jpg\n",
            "found none in 1 entries; the first is list.txt:1: expected a path, found an",
        ),
        ("table.csv", b"path,id\n", "found none$"),
        (
            "table.csv",
            b"path,id\n,1\n,2\n",
            "found none in 2 entries; the first is table.csv:2: expected a path, found",
        ),
        ("coco.json", b'{"images": []}', "found none$"),
        (
            "coco.json",
            b'{"images": [{"id": 1}, 5]}',
            "found none in 2 entries; the first is coco.json:1: expected an image",
        ),
    ],
)
def test_a_list_without_a_photo_is_refused_at_once(name: str, content: bytes, found: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    source = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"{name}: expected a list of at least one photo, {found}"):
        find_images([tmp_path / "a.jpg", source])


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet", ".json"])
def test_lists_that_cannot_be_opened_are_refused_at_once(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    source = write(tmp_path / f"list{suffix}", b"path\n")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match="expected a list that can be read, found: Permission denied"):
        find_images([source])


# --- CSV ---


def csv_refs(tmp_path: Path, text: str) -> list[ImageRef]:
    return refs(write(tmp_path / "photos.csv", text.encode()))


def test_columns_become_metadata(tmp_path: Path) -> None:
    first, second = csv_refs(
        tmp_path,
        '\ufeffprice, path,count,name\r\n1.50,a.jpg,3,"salt, fine"\r\n\r\n2,sub/b.jpg,,\r\n',
    )
    assert (first.id, first.path) == ("a.jpg", tmp_path / "a.jpg")
    assert first.metadata == {"price": 1.5, "count": 3, "name": "salt, fine"}
    assert second.metadata == {"price": 2.0, "count": None, "name": None}
    assert isinstance(second.metadata["price"], float), "a column has one type"
    assert isinstance(first.metadata["count"], int)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "1e3", "-.5", "2."], [1.0, 1000.0, -0.5, 2.0]),
        (["007", "12"], ["007", "12"]),  # article numbers keep their zeros
        (["4006381333931"], [4006381333931]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),  # more than 64 bits
        (["1", "n/a"], [1, None]),
        (["NaN", "10", "4"], [None, 10, 4]),
        (["nan", "1.5", "NA", "-inf", "Infinity", "NULL", "#N/A", "<NA>"], [None, 1.5, *[None] * 6]),
        (["NA", "DE"], ["NA", "DE"]),  # Namibia
        (["NA", "1", "x"], ["NA", "1", "x"]),
        (["9" * 70, "1"], ["9" * 70, "1"]),
        (["0." + "3" * 70, "1"], ["0." + "3" * 70, "1"]),
        (["nan", "inf", "1e999"], ["nan", "inf", "1e999"]),
        (["true", ""], ["true", None]),
        (["", ""], [None, None]),
        (["1_000", "0x10", "1,5"], ["1_000", "0x10", "1,5"]),
    ],
)
def test_types_of_columns(cells: list[str], expected: list, tmp_path: Path) -> None:
    lines = [f'{number}.jpg,"{cell}"' for number, cell in enumerate(cells)]
    values = [ref.metadata["x"] for ref in csv_refs(tmp_path, "\n".join(["path,x", *lines]))]
    assert values == expected
    assert [type(v) for v in values] == [type(e) for e in expected]


def test_an_id_column_names_the_image(tmp_path: Path) -> None:
    found = csv_refs(tmp_path, "id,path,x\nsalt,a.jpg,1\n7,b.jpg,2\n,c.jpg,3\n")
    assert [f.id for f in found] == ["salt", "7", "c.jpg"]
    assert [dict(f.metadata) for f in found] == [{"x": 1}, {"x": 2}, {"x": 3}]


def test_lines_that_name_no_image_are_reported(tmp_path: Path) -> None:
    source = write(tmp_path / "photos.csv", b"path,id,x\na.jpg,1,1\n,2,2\nc.jpg,3\nd.jpg,4,4,4\ne.jpg,1,5\nf.jpg,6,6\n")
    found = list(find_images([source]))
    assert [f.id for f in found] == ["1", "photos.csv:3", "photos.csv:4", "photos.csv:5", "1", "6"]
    assert [f.reason for f in found if isinstance(f, SkippedImage)] == [
        "expected a path, found none",
        "expected 3 columns, found 2",
        "expected 3 columns, found 4",
        "its id '1' is already used by an earlier line",
    ]


def test_ids_of_two_tables_do_not_clash(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", b"path,id\na.jpg,1\n")
    two = write(tmp_path / "two.csv", b"path,id\nb.jpg,1\n")
    assert ids(one, two) == ["1", "two/1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected a column 'path' \(or 'file', 'image', .*\), found none"),
        ("photo,price\n", r"expected a column 'path' \(or .*\), found 'photo', 'price'"),
        ("pth;price\n", r"found 'pth', 'price' \(did you mean 'pth'\?\)"),
        ("path,price,price\n", "expected each column once, found twice: 'price'"),
        ("path,x\na.jpg," + "9" * 200_000 + "\n", "expected CSV, found in line 2: field larger than field limit"),
    ],
)
def test_broken_tables_are_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"photos\.csv: .*{message}"):
        find_images([write(tmp_path / "photos.csv", text.encode())])


# --- Parquet ---


def parquet(tmp_path: Path, columns: dict) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    return tmp_path / "photos.parquet"


def test_parquet(tmp_path: Path) -> None:
    source = parquet(
        tmp_path,
        {
            "path": ["a.jpg", "b.jpg"],
            "count": pa.array([3, None], pa.int16()),
            "price": [1.5, float("nan")],
            "new": [True, None],
            "name": pa.array(["salt", "salt"]).dictionary_encode(),
            "day": [datetime.date(2024, 5, 1), None],
            "sum": [decimal.Decimal("2.50"), None],
        },
    )
    first, second = refs(source)
    assert (first.id, first.path) == ("a.jpg", tmp_path / "a.jpg")
    assert first.metadata == {"count": 3, "price": 1.5, "new": True, "name": "salt", "day": "2024-05-01", "sum": 2.5}
    assert [type(v) for v in first.metadata.values()] == [int, float, bool, str, str, float]
    assert second.metadata == dict.fromkeys(first.metadata, None) | {"name": "salt"}


def test_parquet_with_ids_and_holes(tmp_path: Path) -> None:
    found = list(find_images([parquet(tmp_path, {"path": ["a.jpg", None, "c.jpg"], "id": [7, 8, None]})]))
    assert [f.id for f in found] == ["7", "photos.parquet:2", "c.jpg"]
    assert found[1].reason == "expected a path, found none"


def test_parquet_columns_without_single_values_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (found,) = refs(parquet(tmp_path, {"path": ["a.jpg"], "vector": [[1.0, 2.0]], "raw": [b"x"], "x": [1]}))
    assert found.metadata == {"x": 1}
    assert "columns 'vector', 'raw' hold no single values" in caplog.text


def test_parquet_is_read_in_pieces(tmp_path: Path) -> None:
    found = find_images([parquet(tmp_path, {"path": [f"{i}.jpg" for i in range(10_000)]})])
    assert sum(1 for _ in found) == 10_000


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"photo": ["a"]}, r"expected a column 'path' \(or .*\), found 'photo'"),
        ({"path": [b"a.jpg"]}, r"expected a column 'path' \(or .*\), found none"),
    ],
)
def test_parquet_without_paths(columns: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"photos\.parquet: {message}"):
        find_images([parquet(tmp_path, columns)])


def test_parquet_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"photos\.parquet: expected a Parquet file, found: "):
        find_images([write(tmp_path / "photos.parquet", b"PAR1 no, it is not PAR1")])


def test_parquet_with_damaged_pages(tmp_path: Path) -> None:
    source = parquet(tmp_path, {"path": [f"{i}.jpg" for i in range(1000)]})
    data = bytearray(source.read_bytes())
    data[4:2000] = bytes(1996)
    source.write_bytes(data)
    with pytest.raises(ValueError, match=r"photos\.parquet: expected a Parquet file that can be read to its end"):
        list(find_images([source]))


# --- COCO ---


def test_coco(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "images/b.jpg", "images/sub/c.jpg")
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 4, "height": 2, "flag": True, "nothing": None, "list": [1]},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 3, "file_name": "sub/c.jpg"},
        {"id": 4, "file_name": "gone.jpg"},
    ]
    source = write(tmp_path / "instances.json", json.dumps({"images": images, "annotations": []}).encode())
    found = refs(source)
    assert [f.id for f in found] == ["a.jpg", "b.jpg", "sub/c.jpg", "gone.jpg"], "as the annotations know them"
    assert [f.path.relative_to(tmp_path).as_posix() for f in found] == [
        "a.jpg", "images/b.jpg", "images/sub/c.jpg", "gone.jpg",
    ]  # fmt: skip
    assert found[0].metadata == {"id": 1, "width": 4, "height": 2, "flag": True, "nothing": None}


def test_coco_entries_without_a_name_are_reported(tmp_path: Path) -> None:
    source = write(tmp_path / "c.json", json.dumps({"images": [{"id": 1}, 5, {"file_name": "a.jpg"}]}).encode())
    found = list(find_images([source]))
    assert [f.id for f in found] == ["c.json:1", "c.json:2", "a.jpg"]
    assert found[0].reason == "expected an image with a 'file_name', found none"


def test_an_evaluation_set_is_a_list_of_its_photos(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "q/b.jpg", "images/c.jpg")
    images = [{"file": "a.jpg", "instance": "cup", "width": 4}, {"file": "images/c.jpg"}, {"instance": "cup"}]
    queries = [
        {"file": "q/b.jpg", "box": [1, 2, 3, 4], "kind": "x"},
        {"file": "a.jpg", "box": None},
        {"file": "q/b.jpg"},
    ]
    source = write(tmp_path / "set.json", json.dumps({"name": "s", "images": images, "queries": queries}).encode())
    found = list(find_images([source]))
    assert [f.id for f in found] == ["a.jpg", "images/c.jpg", "set.json:3", "q/b.jpg"]
    assert found[0].metadata == {"instance": "cup", "width": 4}
    assert found[2].reason == "expected an image with a 'file', found none"
    assert (found[3].path, found[3].metadata) == (tmp_path / "q" / "b.jpg", {"kind": "x"})
    alone = write(tmp_path / "images.json", json.dumps({"images": images[:1], "queries": 7}).encode())
    assert ids(alone) == ["a.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a COCO file in JSON, found: "),
        ("[1]", "expected a COCO file or an evaluation set with a list 'images', found list"),
        ('{"image": []}', "expected a COCO file or an evaluation set with a list 'images', found 'image'"),
        ('{"images": {}}', "expected a COCO file or an evaluation set with a list 'images', found 'images'"),
        ("[" * 100_000, "expected a COCO file in JSON, found: "),
    ],
)
def test_broken_coco_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"c\.json: {message}"):
        find_images([write(tmp_path / "c.json", text.encode())])


@pytest.mark.shared_data
def test_real_coco_files() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}")
    found = refs(SHARED / "fridge_det" / "instances.json")
    assert len(found) == 30
    assert found[0].id == "positive_0.jpg"
    assert all(f.path.is_file() for f in found)
