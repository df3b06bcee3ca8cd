"""Stanford Online Products."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb.datasets.benchmarks import MissingFilesError, prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from tests.datasets.benchmarks.miniature import prepared, write_photos
from tests.datasets.benchmarks.scoring import scored

HEADER = "image_id class_id super_class_id path"
FILES = ["mug_final/1_0.JPG", "mug_final/1_1.JPG", "lamp_final/2_0.JPG", "lamp_final/2_1.JPG", "lamp_final/3_0.JPG"]
ROWS = [f"{n} {Path(file).name[0]} 1 {file}" for n, file in enumerate(FILES)]


def write(root: Path, *rows: str, header: str = HEADER, name: str = "Ebay_test.txt") -> None:
    write_photos(root, [file.removesuffix(".JPG") for file in FILES], folder=".", ending=".JPG")
    (root / name).write_text("\n".join([header, *rows]) + "\n")


def test_scores_by_hand(tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    data, _ = prepared("stanford_online_products", tmp_path)
    assert [(q.file, q.instances) for q in data.queries[:2]] == [(FILES[0], ("1",)), (FILES[1], ("1",))]
    order = [FILES[n] for n in (0, 1, 4, 2, 3)]
    means = scored(data, [order] * 5).scores.means
    # 1_0 and 1_1 find each other at once, 2_0 and 2_1 at rank 3; 3_0 is alone and does not count
    assert means["R@1"] == pytest.approx(2 / 4)
    assert means["R@10"] == 1
    assert list(means) == ["R@1", "R@10", "R@100", "R@1000"]


def test_the_training_split_says_so(tmp_path: Path) -> None:
    write(tmp_path, *ROWS, name="Ebay_train.txt")
    with pytest.raises(MissingFilesError, match=r"Ebay_test.txt: no such file"):
        prepare("stanford_online_products", tmp_path)
    data, _ = prepared("stanford_online_products", tmp_path, split="train")
    assert data.name == "stanford_online_products, training split"
    assert data.path.name == "stanford_online_products-train.json"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9 9 1 gone.JPG", "line 7: expected a photo, found none at 'gone.JPG'"),
        ("9 9 1", "line 7: expected image_id class_id super_class_id path, found '9 9 1'"),
        (ROWS[0], "line 7: expected each photo once, found 'mug_final/1_0.JPG' again"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, row: str, message: str) -> None:
    write(tmp_path, *ROWS, row)
    with pytest.raises(BadGroundTruthError, match=message):
        prepare("stanford_online_products", tmp_path)


def test_another_file(tmp_path: Path) -> None:
    write(tmp_path, header="id,class")
    with pytest.raises(BadGroundTruthError, match=r"expected the first line 'image_id .*found 'id,class'"):
        prepare("stanford_online_products", tmp_path)
    write(tmp_path)
    with pytest.raises(BadGroundTruthError, match="lines: expected at least one photo, found none"):
        prepare("stanford_online_products", tmp_path)
