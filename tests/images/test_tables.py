"""Tables as other programs write them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from objemb.images import ImageRef, SkippedImage, find_images
from objemb.images.arrow import values
from objemb.images.names import readable, spellings
from objemb.images.tables import _is_number, open_table, text
from objemb.images.texts import read_text
from tests.images.listing import refs
from tests.images.samples import write


def csv(tmp_path: Path, content: str, encoding: str = "utf-8") -> Path:
    return write(tmp_path / "photos.csv", content.encode(encoding))


# --- dialects ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_separators(encoding: str, delimiter: str, newline: str, tmp_path: Path) -> None:
    lines = [["path", "Größe", "price"], ["a.jpg", "groß", "5"], ["b.jpg", "", "7"], ["", "", ""]]
    (first, second) = refs(csv(tmp_path, newline.join(delimiter.join(line) for line in lines), encoding))
    assert (first.id, first.metadata) == ("a.jpg", {"Größe": "groß", "price": 5})
    assert (second.id, second.metadata) == ("b.jpg", {"Größe": None, "price": 7})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lists_in_other_encodings(encoding: str, tmp_path: Path) -> None:
    write(tmp_path / "ü.jpg", b"")
    assert [f.id for f in refs(write(tmp_path / "list.txt", "# May\nü.jpg\n".encode(encoding)))] == ["ü.jpg"]
    assert read_text(tmp_path / "list.txt").lstrip("\ufeff") == "# May\nü.jpg\n"


def test_a_list_that_is_a_table_of_a_spreadsheet(tmp_path: Path) -> None:
    source = write(tmp_path / "list.txt", "File\tprice\na.jpg\t5\n".encode("utf-16"))
    (found,) = refs(source)
    assert (found.id, found.metadata) == ("a.jpg", {"price": 5})
    source = write(tmp_path / "list.txt", b"a\tb.jpg\npath.jpg\n")
    assert [f.id for f in refs(source)] == ["a\tb.jpg", "path.jpg"]


def test_the_separator_is_the_one_that_gives_a_path(tmp_path: Path) -> None:
    (found,) = refs(csv(tmp_path, "path;size, in cm;name\na.jpg;3;x,y\n"))
    assert found.metadata == {"size, in cm": 3, "name": "x,y"}
    (found,) = refs(csv(tmp_path, "sep=|\npath|price\na.jpg|5\n"))
    assert (found.id, found.metadata) == ("a.jpg", {"price": 5})


def test_decimal_commas(tmp_path: Path) -> None:
    rows = ["path;price;count;code;both", "a.jpg;3,50;1;1,2,3;1,5", "b.jpg;-,5;NA;x;1.5", "c.jpg;4;;;2"]
    found = refs(csv(tmp_path, "\n".join(rows)))
    assert [f.metadata["price"] for f in found] == [3.5, -0.5, 4.0]
    assert [f.metadata["count"] for f in found] == [1, None, None]
    assert [f.metadata["code"] for f in found] == ["1,2,3", "x", None]
    assert [f.metadata["both"] for f in found] == [1.5, 1.5, 2.0]
    found = refs(csv(tmp_path, 'path,price\na.jpg,"3,50"\n'))
    assert found[0].metadata == {"price": "3,50"}, "between commas a comma is no decimal point"


def test_what_spreadsheets_leave_behind(tmp_path: Path) -> None:
    source = csv(tmp_path, "path,price,,\na.jpg,5,,\n,,,\n  , ,,\nb.jpg,6\nc.jpg,7,,,\nd.jpg,8,,,x\n")
    found = list(find_images([source]))
    assert [(f.id, getattr(f, "metadata", None)) for f in found] == [
        ("a.jpg", {"price": 5}),
        ("photos.csv:5", None),
        ("c.jpg", {"price": 7}),
        ("photos.csv:7", None),
    ]
    assert isinstance(found[1], SkippedImage)
    assert found[1].reason == "expected 4 columns, found 2"


def test_quoted_cells(tmp_path: Path) -> None:
    write(tmp_path / " a.jpg ", b"")
    write(tmp_path / "b.jpg", b"")
    source = csv(tmp_path, 'path,name\n" a.jpg ","two\nlines"\n b.jpg ," x\u2028y "\n')
    first, second = refs(source)
    assert (first.path, first.metadata) == (tmp_path / " a.jpg ", {"name": "two\nlines"})
    assert (second.id, second.path, second.metadata) == ("b.jpg", tmp_path / "b.jpg", {"name": "x\u2028y"})


@pytest.mark.parametrize("alias", ["path", "file", "image", "file_name", "filename", "Path", "IMAGE"])
def test_names_of_the_path_column(alias: str, tmp_path: Path) -> None:
    (found,) = refs(csv(tmp_path, f"{alias},label\na.jpg,tea\n"))
    assert (found.id, found.metadata) == ("a.jpg", {"label": "tea"})
    pq.write_table(pa.table({alias: ["a.jpg"], "label": ["tea"]}), tmp_path / "photos.parquet")
    assert refs(tmp_path / "photos.parquet") == [found]


def test_the_first_name_of_a_column_counts(tmp_path: Path) -> None:
    (found,) = refs(csv(tmp_path, "image,file,path,ID\n1,2,a.jpg,7\n"))
    assert (found.id, found.metadata) == ("7", {"image": 1, "file": 2})
    table = open_table(csv(tmp_path, "label,x1,Instance\n"), ["instance"])
    assert (table.column("instance"), table.column("x1"), table.column("path")) == (2, 1, None)
    with pytest.raises(ValueError, match=r"photos.csv: expected a column 'path' \(or 'file', .*found 'label', 'x1'"):
        table.need("path")


def test_a_cell_too_long_to_be_a_number_takes_no_time() -> None:
    start = time.process_time()
    for cell in ("9" * 10**6, "9" * 10**6 + "x", "1." + "3" * 10**6, "-" * 10**6 + "1", "1e" + "9" * 10**6):
        assert not _is_number(cell)
    assert _is_number("1" * 18)
    assert not _is_number("9" * 60 + "x")
    assert time.process_time() - start < 1, "a pattern that tries every split takes minutes"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (" a ", "a"), (None, ""), (float("nan"), ""), (float("inf"), ""), (7, "7"), (7.0, "7"), (7.5, "7.5"),
        (True, "True"), ("gro\udcdf", "groß"),
    ],
)  # fmt: skip
def test_cells_as_texts(cell: Any, expected: str) -> None:
    assert text(cell) == expected


# --- paths ---


def test_texts_whose_bytes_were_no_utf8() -> None:
    assert readable("salt") == "salt"
    assert readable("größe") == "größe"
    assert readable(b"gr\xf6\xdfe".decode("utf-8", "surrogateescape")) == "größe"
    assert readable("cut \ud83d") == r"cut \ud83d"
    assert readable(b"\x81".decode("utf-8", "surrogateescape")) == "\ufffd", "Windows-1252 has no such byte"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"sub\e.jpg", "sub/e.jpg"),
        (r".\sub\e.jpg", "sub/e.jpg"),
        ('"sub/e.jpg"', "sub/e.jpg"),
        (r'"sub\e.jpg"', "sub/e.jpg"),
        ("'sub/e.jpg'", "sub/e.jpg"),
        ("\tsub/e.jpg  ", "sub/e.jpg"),
        ("~/sub/e.jpg", "~"),
        ("file://HOME/sub/e.jpg", "~"),
        ("file://HOME/sub/f%20g.jpg", "f g"),
        (b"sub/\xfc.jpg".decode("utf-8", "surrogateescape"), "sub/ü.jpg"),
    ],
)
def test_paths_as_they_are_meant(written: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sub/e.jpg", "sub/f g.jpg", "sub/ü.jpg"):
        write(tmp_path / name, b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    line = written.replace("HOME", tmp_path.as_posix())
    source = write(tmp_path / "list.txt", line.encode("utf-8", "surrogateescape"))
    expected = {"~": "sub/e.jpg", "f g": "sub/f g.jpg"}.get(meant, meant)
    (found,) = refs(source)
    assert (found.id, found.path.resolve()) == (expected, tmp_path / expected)


def test_a_file_of_the_very_name_comes_first(tmp_path: Path) -> None:
    for name in (r"sub\e.jpg", "sub/e.jpg", '"q".jpg', "~", " a.jpg"):
        write(tmp_path / name, b"")
    source = write(tmp_path / "list.txt", b'sub\\e.jpg\n"q".jpg\n~\n a.jpg\n')
    assert [f.id for f in refs(source)] == [r"sub\e.jpg", '"q".jpg', "~", " a.jpg"]


def test_paths_that_lead_nowhere_stay_as_they_are_written(tmp_path: Path) -> None:
    source = write(tmp_path / "list.txt", b'C:\\photos\\gone.jpg\n ~nobody/gone.jpg \n"gone.jpg\n')
    assert [f.id for f in refs(source)] == [r"C:\photos\gone.jpg", "~nobody/gone.jpg", '"gone.jpg']
    assert spellings("a/b.jpg") == ["a/b.jpg"]


@pytest.mark.parametrize("address", ["https://a.org/b.jpg", "HTTP://a/b", "ftp://a/b.jpg"])
def test_addresses_are_skipped(address: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"")
    first, second = find_images([csv(tmp_path, f"path\n{address}\na.jpg\n")])
    assert first == SkippedImage(
        "photos.csv:2", str(tmp_path / "photos.csv"), "expected a path, found an address: photos are not fetched"
    )
    assert second.id == "a.jpg"


def test_coco_from_windows(tmp_path: Path) -> None:
    write(tmp_path / "images" / "sub" / "e.jpg", b"")
    source = write(tmp_path / "c.json", '{"images": [{"id": 1, "file_name": "sub\\\\e.jpg"}]}'.encode("utf-16"))
    (found,) = refs(source)
    assert (found.id, found.path) == ("sub/e.jpg", tmp_path / "images" / "sub" / "e.jpg")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nul.txt", b"a\0b.jpg\na.jpg\n"),
        ("nul.csv", b"path,p\na\0b.jpg,1\na.jpg,2\n"),
        ("long.txt", b"x" * 5000 + b"/y.jpg\na.jpg\n"),
        ("cut.json", b'{"images": [{"file_name": "cut\\ud83d.jpg"}, {"file_name": "a.jpg"}]}'),
        ("nul.json", b'{"images": [{"file_name": "a\\u0000b.jpg"}, {"file_name": "a.jpg"}]}'),
    ],
)
def test_paths_that_no_file_system_can_hold_end_nothing(name: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"")
    first, second = refs(write(tmp_path / name, content))
    assert second.id == "a.jpg"
    assert first.id != "a.jpg"


# --- several rows of one photo ---


def test_rows_of_one_photo_with_ids_of_their_own_are_images_of_their_own(tmp_path: Path) -> None:
    source = csv(tmp_path, "path,id,x\na.jpg,1,5\na.jpg,2,6\na.jpg,1,5\na.jpg,,7\na.jpg,2,8\n")
    found = list(find_images([source]))
    assert [(f.id, f.metadata) for f in found if isinstance(f, ImageRef)] == [("1", {"x": 5}), ("2", {"x": 6})]
    assert [(f.id, f.reason) for f in found if isinstance(f, SkippedImage)] == [
        ("a.jpg", "an earlier line has the same photo; give each line its own id to keep both"),
        ("2", "its id '2' is already used by an earlier line"),
    ]


def test_rows_of_one_photo_without_ids(tmp_path: Path) -> None:
    source = csv(tmp_path, "path,x\na.jpg,5\na.jpg,5\n./a.jpg,6\nb.jpg,5\n")
    found = list(find_images([source]))
    assert [f.id for f in found] == ["a.jpg", "a.jpg", "b.jpg"]
    assert isinstance(found[1], SkippedImage)
    assert found[1].reason.startswith("an earlier line has the same photo")
    assert [f.id for f in find_images([csv(tmp_path, "path\na.jpg\na.jpg\n")])] == ["a.jpg"]


def test_a_photo_of_an_earlier_source_stays_one(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.jpg", b"")
    source = write(tmp_path / "t.csv", b"path,id,x\np/a.jpg,7,5\n")
    assert [f.id for f in find_images([tmp_path / "p", source])] == ["a.jpg"]
    assert [(f.id, f.metadata) for f in find_images([source, tmp_path / "p"])] == [("7", {"x": 5})]  # type: ignore[union-attr]


# --- Parquet ---


def parquet_values(tmp_path: Path, column: pa.Array) -> list[Any]:
    names = [f"{n}.jpg" for n in range(len(column))]
    pq.write_table(pa.table({"path": names, "x": column}), tmp_path / "photos.parquet")
    return [ref.metadata["x"] for ref in refs(tmp_path / "photos.parquet")]


@pytest.mark.parametrize(
    ("numbers", "kind", "expected"),
    [
        ([0, 1_577_934_245], pa.timestamp("s"), ["1970-01-01T00:00:00", "2020-01-02T03:04:05"]),
        ([1_577_934_245_120_000], pa.timestamp("us"), ["2020-01-02T03:04:05.120000"]),
        ([1_577_934_245_123_456_789, 1_577_934_245_000_001_000], pa.timestamp("ns"),
         ["2020-01-02T03:04:05.123456789", "2020-01-02T03:04:05.000001"]),
        ([-1], pa.timestamp("us"), ["1969-12-31T23:59:59.999999"]),
        ([10**18], pa.timestamp("us"), ["33658-09-27T01:46:40"]),
        ([1_577_934_245], pa.timestamp("s", "Europe/Berlin"), ["2020-01-02T04:04:05+01:00"]),
        ([1_577_934_245], pa.timestamp("s", "UTC"), ["2020-01-02T03:04:05+00:00"]),
        ([1_577_934_245], pa.timestamp("s", "-03:30"), ["2020-01-01T23:34:05-03:30"]),
        ([1_577_934_245], pa.timestamp("s", "US/Pacific-New"), ["2020-01-02T03:04:05+00:00"]),
        ([253_402_300_740], pa.timestamp("s", "Europe/Berlin"), ["9999-12-31T23:59:00+00:00"]),
        ([18_263, -719_163], pa.date32(), ["2020-01-02", "0000-12-31"]),
        ([18_263 * 86_400_000], pa.date64(), ["2020-01-02"]),
        ([1_234_567_891, 86_399 * 10**9], pa.time64("ns"), ["00:00:01.234567891", "23:59:59"]),
        ([3_723], pa.time32("s"), ["01:02:03"]),
        ([1_500_000_000, -1], pa.duration("ns"), [1.5, -1e-9]),
        ([90], pa.duration("s"), [90.0]),
    ],
)  # fmt: skip
def test_times(numbers: list[int], kind: pa.DataType, expected: list[Any], tmp_path: Path) -> None:
    integer = pa.int32() if kind.bit_width == 32 else pa.int64()
    column = pa.array([*numbers, None], integer).cast(kind) if kind != pa.date64() else pa.array([*numbers, None], kind)
    assert parquet_values(tmp_path, column) == [*expected, None]
    assert values(column.dictionary_encode()) == [*expected, None], "Parquet keeps few of these, Arrow all"


def test_other_types_of_columns(tmp_path: Path) -> None:
    assert parquet_values(tmp_path, pa.array([2**64 - 1, None], pa.uint64())) == [2**64 - 1, None]
    assert parquet_values(tmp_path, pa.nulls(2)) == [None, None]
    assert parquet_values(tmp_path, pa.array([1.5, float("inf")], pa.float32())) == [1.5, None]
    assert parquet_values(tmp_path, pa.array([True, None])) == [True, None]
    assert parquet_values(tmp_path, pa.array(["a", None], pa.large_string())) == ["a", None]


def test_ids_that_an_empty_neighbour_made_floats(tmp_path: Path) -> None:
    columns = {"path": ["a.jpg", "b.jpg", "c.jpg"], "id": [7.0, float("nan"), None]}
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    assert [f.id for f in refs(tmp_path / "photos.parquet")] == ["7", "b.jpg", "c.jpg"]
