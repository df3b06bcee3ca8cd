"""Google Landmarks: retrieval, recognition, boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objemb.datasets.benchmarks import MissingFilesError, prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from tests.datasets.benchmarks.miniature import prepared, write_photos
from tests.datasets.benchmarks.scoring import scored


def write_retrieval(root: Path, *rows: str) -> None:
    write_photos(root, ["0/a/0a", "0/b/0b", "1/c/1c", "1/d/1d"], folder="index")
    write_photos(root, ["q1", "q2", "q3"], folder="test")
    (root / "retrieval_solution_v2.1.csv").write_text("\n".join(["id,images,Usage", *rows]))


def index(*names: str) -> list[str]:
    return [f"index/{name[0]}/{name[1]}/{name}.jpg" for name in names]


def test_retrieval_scores_by_hand(tmp_path: Path) -> None:
    write_retrieval(tmp_path, "q1,0a 0b 1c,Private", "q2,1d,Public", "q3,None,Ignored")
    data, _ = prepared("google_landmarks", tmp_path)
    assert [q.file for q in data.queries] == ["test/q1.jpg"]
    assert data.name == "google_landmarks"
    # right, wrong, right, right: of three positives
    found = scored(data, [index("0a", "1d", "0b", "1c")])
    assert found.scores.means["mAP@100"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    both, _ = prepared("google_landmarks", tmp_path, usage="all")
    assert both.name == "google_landmarks, all queries"
    assert both.path.name == "google_landmarks-all.json"
    means = scored(both, [index("0a", "1d", "0b", "1c"), index("0a", "1d", "0b", "1c")]).scores.means
    assert means["mAP@100"] == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q9,0a,Private", "csv line 2: expected a photo below test/, found none named 'q9'"),
        ("q1,0a 9z,Private", r"csv line 2: images\[1\]: expected an image below index/, found none named '9z'"),
        ("q1,,Private", "csv line 2: expected at least one image in 'images', found none"),
        ("q1,0a 0a,Private", "csv line 2: expected each image once, found '0a' 2 times"),
        ("q1,0a,Secret", "csv line 2: expected the usage Private, Public or Ignored, found 'Secret'"),
        ("q1,0a", "csv line 2: expected 3 columns, found 2"),
        ("q2,1d,Public", "Usage: expected private queries, found none"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    write_retrieval(tmp_path, row)
    with pytest.raises(BadGroundTruthError, match=message):
        prepare("google_landmarks", tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        MissingFilesError, match=r"index/: no such folder\n.*test/: no such folder\n.*retrieval_solution"
    ):
        prepare("google_landmarks", tmp_path)
    write_retrieval(tmp_path)
    (tmp_path / "retrieval_solution_v2.1.csv").write_text("id,pictures\n")
    with pytest.raises(
        BadGroundTruthError,
        match=r"expected a column 'images', found 'id', 'pictures'.*; expected the columns 'id', 'images', 'Usage'",
    ):
        prepare("google_landmarks", tmp_path)


def test_recognition_scores_by_hand(tmp_path: Path) -> None:
    write_photos(tmp_path, ["a", "b", "c"], folder="train")
    write_photos(tmp_path, ["q1", "q2", "q3"], folder="test")
    (tmp_path / "train.csv").write_text("id,url,landmark_id\na,-,7\nb,-,8\nc,-,8\n")
    solution = tmp_path / "recognition_solution_v2.1.csv"
    solution.write_text("id,landmarks,Usage\nq1,7,Private\nq2,,Private\nq3,8,Private\n")
    data, _ = prepared("google_landmarks_recognition", tmp_path)
    assert [q.instances for q in data.queries] == [("7",), (), ("8",)]
    files = [f"train/{n}.jpg" for n in "abc"]
    found = scored(data, [files, files, files])
    # all guess landmark 7 with one score: right, no landmark, wrong; two queries have a landmark
    assert found.scores.means["GAP"] == pytest.approx((1 / 1) / 2)
    (tmp_path / "train_clean.csv").write_text("landmark_id,images\n7,a\n8,b c d\n")
    with pytest.raises(BadGroundTruthError, match=r"train_clean.csv line 3: expected a photo below train/.*'d'"):
        prepare("google_landmarks_recognition", tmp_path)
    solution.write_text("id,landmarks,Usage\nq9,7,Private\n")
    with pytest.raises(BadGroundTruthError, match="line 2: expected a photo below test/, found none named 'q9'"):
        prepare("google_landmarks_recognition", tmp_path)


def test_boxes(tmp_path: Path) -> None:
    write_photos(tmp_path, ["a", "b", "c"], folder="train")
    (tmp_path / "train.csv").write_text("id,url,landmark_id\na,-,7\nb,-,7\nc,-,8\ngone,-,8\n")
    table = tmp_path / "boxes_split2.csv"
    table.write_text("id,box\nb,0.1 0.25 0.5 1\na,0 0 1 0.5\nc,0 0 1 1\ngone,0 0 1 1\n")
    data, _ = prepared("google_landmark_boxes", tmp_path)
    # top left bottom right of 40 x 30 pixels
    assert [(o.file, o.instances) for o in data.objects] == [
        ("train/b.jpg", ("7",)), ("train/a.jpg", ("7",)), ("train/c.jpg", ("8",))
    ]  # fmt: skip
    np.testing.assert_allclose([o.box for o in data.objects], [(10, 3, 40, 15), (0, 0, 20, 30), (0, 0, 40, 30)])
    assert [(q.file, q.box) for q in data.queries] == [("train/a.jpg", (0, 0, 20, 30))]
    table.write_text("id,box\na,0 0 1\nb,0 0 15 20\nzz,0 0 1 1\nc,0.5 0 0.2 1\n")
    with pytest.raises(BadGroundTruthError) as caught:
        prepare("google_landmark_boxes", tmp_path)
    for text in (
        "line 2: expected a box as four numbers top left bottom right, found '0 0 1'",
        "line 3: expected fractions of the photo, from 0 to 1: top left bottom right, found '0 0 15 20'",
        "line 4: expected a photo of train.csv, found 'zz'",
        "line 5: expected a box x1 < x2, y1 < y2 inside 40 x 30 pixels",
    ):
        assert text in str(caught.value)
