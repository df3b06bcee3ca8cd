"""One's own photos, in sub-folders or in a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb.datasets.benchmarks import MissingFilesError, names, prepare
from objemb.datasets.benchmarks import prepared as prepared_file
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from objemb.datasets.protocols import INSTANCES
from objemb.evaluation.retrieval_task import make_task
from tests.datasets.benchmarks.miniature import prepared, write_photos
from tests.datasets.benchmarks.scoring import scored


def write_table(root: Path, *rows: str, header: str = "image,instance,x1,y1,x2,y2,role") -> Path:
    write_photos(root, ["a", "b", "c", "q"], folder=".")
    table = root / "instances.csv"
    table.write_text("\n".join([header, *rows]))
    return table


def test_a_sub_folder_for_each_instance(tmp_path: Path) -> None:
    write_photos(tmp_path, ["cup/1", "cup/deep/2", "tea/1", "tea/2", "3"], folder=".")
    data, _ = prepared("folder", tmp_path)
    assert data.protocol is INSTANCES
    assert [(e.file, e.instances) for e in data.images] == [
        ("3.jpg", ()),
        ("cup/1.jpg", ("cup",)),
        ("cup/deep/2.jpg", ("cup",)),
        ("tea/1.jpg", ("tea",)),
        ("tea/2.jpg", ("tea",)),
    ]
    assert [q.file for q in data.queries] == ["cup/1.jpg", "cup/deep/2.jpg", "tea/1.jpg", "tea/2.jpg"]
    order = ["cup/1.jpg", "3.jpg", "cup/deep/2.jpg", "tea/1.jpg", "tea/2.jpg"]
    found = scored(data, [order, order, order[::-1], order])
    # the own photo leaves the list: the other one is at ranks 1, 0, 1 (behind tea/2), 3
    assert [q["first_rank"] for q in found.scores.per_query] == [1, 0, 0, 3]
    assert found.scores.means["mAP"] == pytest.approx((1 / 4 + 1 + 1 + 1 / 8) / 4)


def test_queries_apart_from_the_database(tmp_path: Path) -> None:
    write_photos(tmp_path, ["database/cup/1", "database/tea/1", "database/0", "query/cup/2"], folder=".")
    data, _ = prepared("folder", tmp_path)
    assert [e.file for e in data.images] == ["database/0.jpg", "database/cup/1.jpg", "database/tea/1.jpg"]
    assert [(q.file, q.instances) for q in data.queries] == [("query/cup/2.jpg", ("cup",))]


def test_a_table(tmp_path: Path) -> None:
    rows = ["a.jpg,cup,1,2,30,20,", "a.jpg,tea,,,,,database", "b.jpg,cup,0,0,40,30,database", "b.jpg,,,,,,", "",
            "c.jpg,,,,,,database", " q.jpg , tea , 5 ,5,10,10, query ", "b.jpg,cup,0,0,40,30,database"]  # fmt: skip
    write_table(tmp_path, *rows)
    data, _ = prepared("folder", tmp_path)
    assert [(e.file, e.instances) for e in data.images] == [
        ("a.jpg", ("cup", "tea")),
        ("b.jpg", ("cup",)),
        ("c.jpg", ()),
    ]
    assert [(o.file, o.instances, o.box) for o in data.objects] == [
        ("a.jpg", ("cup",), (1, 2, 30, 20)),
        ("b.jpg", ("cup",), (0, 0, 40, 30)),
    ]
    assert [(q.file, q.instances, q.box) for q in data.queries] == [
        ("a.jpg", ("cup",), (1, 2, 30, 20)),
        ("q.jpg", ("tea",), (5, 5, 10, 10)),
    ]
    assert make_task(data).queries_without_positives() == []


def test_a_table_elsewhere_and_without_boxes(tmp_path: Path) -> None:
    table = write_table(tmp_path / "photos", "a.jpg,cup", "b.jpg,cup", "c.jpg,tea", header="image,instance")
    moved = table.rename(table.with_name("mine.csv"))
    data, _ = prepared("folder", tmp_path, table=str(moved))
    assert [e.file for e in data.images] == ["photos/a.jpg", "photos/b.jpg", "photos/c.jpg"]
    with pytest.raises(MissingFilesError, match=r"gone.csv: no such file"):
        prepare("folder", tmp_path, table=str(tmp_path / "gone.csv"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gone.jpg,cup,,,,,", "line 2: expected an image, found none at 'gone.jpg'"),
        (",cup,,,,,", "line 2: expected an image, found none at ''"),
        ("a.jpg,cup,1,2,x,20,", r"line 2: expected a box as four numbers x1 y1 x2 y2, found \['1', '2', 'x', '20'\]"),
        ("a.jpg,cup,1,2,,20,", "line 2: expected a box as four numbers"),
        ("a.jpg,cup,1,2,99,20,", "line 2: expected a box .* inside 40 x 30 pixels"),
        ("a.jpg,cup,0.1,0.2,0.9,1,", "line 2: expected a box in pixels, found fractions of the photo, from 0 to 1"),
        ("a.jpg,cup,1,2,1e999,20,", "line 2: expected a box as four numbers"),
        ("a.jpg,cup,,,,,both", "line 2: expected the role query, database, or an empty cell, found 'both'"),
        ("a.jpg,,,,,,query", "line 2: expected the instance that is searched for, found an empty cell"),
        ("a.jpg,cup", "line 2: expected 7 columns, found 2"),
        ("a.jpg,cup,,,,,,x", "line 2: expected 7 columns, found 8"),
        ("a.jpg,jar,,,,,query", "jar: expected a photo of this instance in the database, found none"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    table = write_table(tmp_path, row, "b.jpg,cup,,,,,", "c.jpg,tea,,,,,")
    with pytest.raises(BadGroundTruthError, match=message) as caught:
        prepare("folder", tmp_path)
    assert str(table) in str(caught.value)


@pytest.mark.parametrize(
    "header", ["path,instance,x1,y1,x2,y2,role", "File;Label;X1;Y1;X2;Y2;Role", "id,image,label,x1,y1,x2,y2,role,price"]
)
def test_tables_of_other_programs(header: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    comma = ";" not in header
    rows = [
        ["a.jpg", "Größe", "1,5" if not comma else "1.5", "2", "30", "20", ""],
        [r".\b.jpg", "Größe", *[""] * 4, "query"],
    ]
    rows.append(["c.jpg", "tea", *[""] * 4, "database"])
    if header.startswith("id"):
        rows = [["7", *row, "5"] for row in rows]
    write_table(tmp_path)
    lines = [header, *(("," if comma else ";").join(row) for row in rows)]
    (tmp_path / "instances.csv").write_bytes("\r\n".join(lines).encode("utf-16"))
    data, _ = prepared("folder", tmp_path)
    assert [(e.file, e.instances) for e in data.images] == [("a.jpg", ("Größe",)), ("c.jpg", ("tea",))]
    assert data.objects[0].box == (1.5, 2, 30, 20)
    assert [q.file for q in data.queries] == ["a.jpg", "b.jpg"]
    assert ("columns 'price' are not used" in caplog.text) == ("price" in header)


@pytest.mark.parametrize("header", ["image,what", "image,instance,x1,y1", "image,instance,rôle", ""])
def test_bad_columns_are_named(tmp_path: Path, header: str) -> None:
    write_table(tmp_path, header=header)
    with pytest.raises(BadGroundTruthError, match="expected the columns path and instance, and perhaps x1, y1"):
        prepare("folder", tmp_path)


def test_folders_without_a_task(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"instances.csv, or images in sub-folders: none there"):
        prepare("folder", tmp_path)
    write_photos(tmp_path, ["cup/1", "cup/2"], folder=".")
    with pytest.raises(BadGroundTruthError, match="cup: expected at least two instances"):
        prepare("folder", tmp_path)
    write_table(tmp_path, "a.jpg,cup,,,,,database", "b.jpg,tea,,,,,database")
    with pytest.raises(BadGroundTruthError, match="queries: expected at least one, found none"):
        prepare("folder", tmp_path)


def test_a_set_is_written_once(tmp_path: Path) -> None:
    write_photos(tmp_path, ["cup/1", "cup/2", "tea/1"], folder=".")
    file = prepared_file("folder", tmp_path)
    assert file == tmp_path / "folder.json"
    file.write_text("kept")
    assert prepared_file("folder", tmp_path).read_text() == "kept"
    with pytest.raises(ValueError, match="did you mean 'folder'"):
        prepared_file("foldr", tmp_path)
    assert {"folder", "oxford5k", "paris6k", "roxford5k", "rparis6k"} <= set(names())
