"""ROxford5k and RParis6k, from pickles and MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.datasets.benchmarks import MissingFilesError, prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from objemb.datasets.protocols import PROTOCOLS
from tests.datasets.benchmarks.miniature import prepared, write_lists, write_photos
from tests.datasets.benchmarks.scoring import scored

NAMES = [f"oxford_00000{n}" for n in range(6)]
QUERIES = ["all_souls_000013", "oxford_003057"]
ENTRIES = [
    {"bbx": [3.5, 4.0, 30.25, 20.0], "easy": [3], "hard": [0, 4], "junk": [1]},
    {"bbx": [0, 0, 40, 30], "easy": [], "hard": [2], "junk": []},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path, [*NAMES, *QUERIES])
    write_lists(tmp_path / "gnd_roxford5k.pkl", NAMES, QUERIES, ENTRIES)
    return tmp_path


def files(*numbers: int) -> list[str]:
    return [f"jpg/{NAMES[n]}.jpg" for n in numbers]


def test_roxford(root: Path) -> None:
    data, written = prepared("roxford5k", root)
    assert (data.name, data.crop, data.protocol) == ("roxford5k", "scaled", PROTOCOLS["revisited"])
    assert [e.file for e in data.images] == files(*range(6)), "queries are not in the database"
    assert [(q.file, q.box) for q in data.queries] == [
        (f"jpg/{QUERIES[0]}.jpg", (3.5, 4, 30.25, 20)),
        (f"jpg/{QUERIES[1]}.jpg", (0, 0, 40, 30)),
    ]
    assert written["queries"][0]["relevant"] == {"easy": files(3), "hard": files(0, 4), "junk": files(1)}


def test_scores_by_hand(root: Path) -> None:
    data, _ = prepared("roxford5k", root)
    found = scored(data, [files(0, 1, 2, 3, 4, 5), files(5, 4, 3, 2, 1, 0)])
    easy = (0 + 1 / 2) / 2
    medium = ((1 + 1) + (1 / 2 + 2 / 3) + (2 / 3 + 3 / 4)) / 6
    hard = ((1 + 1) + (1 / 2 + 2 / 3)) / 4
    other = (0 + 1 / 4) / 2  # rank 3
    means = found.scores.means
    assert [means[f"mAP {s}"] for s in ("easy", "medium", "hard")] == pytest.approx(
        [easy, (medium + other) / 2, (hard + other) / 2]
    )
    assert [means[f"mP@{k} medium"] for k in (1, 5, 10)] == pytest.approx(
        [1 / 2, (3 / 4 + 1 / 4) / 2, (3 / 4 + 1 / 4) / 2]
    )
    assert (found.scores.setups["easy"].queries, found.scores.queries) == (1, 2)
    assert found.problems == ()


@pytest.mark.parametrize("several", [True, False])
def test_matlab_counts_from_one(tmp_path: Path, several: bool) -> None:
    """A list of one number, and a set of one query, lose their axes in MATLAB files."""
    scipy_io = pytest.importorskip("scipy.io")
    write_photos(tmp_path, [*NAMES, *QUERIES])
    keep = 2 if several else 1
    columns = ("bbx", "easy", "hard", "junk")
    gnd = np.empty((1, keep), dtype=[(c, object) for c in columns])
    for n, entry in enumerate(ENTRIES[:keep]):
        for c in columns:
            value: Any = entry[c]
            gnd[0, n][c] = np.array([value if c == "bbx" else [v + 1 for v in value]], dtype=float).reshape(1, -1)
    cells = {
        key: np.array(names, dtype=object)[:, None] for key, names in (("imlist", NAMES), ("qimlist", QUERIES[:keep]))
    }
    scipy_io.savemat(tmp_path / "gnd_roxford5k.mat", {**cells, "gnd": gnd})
    from_matlab = prepared("roxford5k", tmp_path)[1]
    write_lists(tmp_path / "gnd_roxford5k.pkl", NAMES, QUERIES[:keep], ENTRIES[:keep])
    assert from_matlab == prepared("roxford5k", tmp_path)[1]


def test_a_damaged_matlab_file(root: Path) -> None:
    pytest.importorskip("scipy.io")
    (root / "gnd_roxford5k.pkl").rename(root / "gnd_roxford5k.mat")
    with pytest.raises(BadGroundTruthError, match=r"gnd_roxford5k.mat: expected a MATLAB file, found"):
        prepare("roxford5k", root)


def test_distractors_are_a_folder_behind_the_images(root: Path, tmp_path: Path) -> None:
    write_photos(root, ["a/1", "b/2"], folder="r1m", ending=".png")
    data, written = prepared("roxford5k", root, distractors=root / "r1m")
    assert data.path.name == "roxford5k-distractors.json"
    assert data.name == "roxford5k with distractors"
    assert (written["distractors"], data.distractors) == ("r1m", 2)
    assert [e.file for e in data.images[-2:]] == ["r1m/a/1.png", "r1m/b/2.png"]
    assert data.photo("r1m/a/1.png").is_file()
    order = ["r1m/a/1.png", *files(0, 1, 2, 3, 4, 5), "r1m/b/2.png"]
    found = scored(data, [order, order])
    assert found.scores.means["mAP hard"] == pytest.approx(((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4 + (0 + 1 / 4) / 2) / 2)
    with pytest.raises(ValueError, match="distractors: expected a folder"):
        prepare("roxford5k", root, distractors=root / "gone")


def test_the_set_may_lie_elsewhere(root: Path) -> None:
    data, written = prepared("roxford5k", root, output=root / "sets" / "mine.json")
    assert data.missing_photos() == []
    assert data.images[0].file == f"../{files(0)[0]}"
    assert written["queries"][0]["relevant"]["easy"] == [f"../{files(3)[0]}"]


def test_the_other_benchmark(root: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"gnd_rparis6k.pkl or gnd_rparis6k.mat: no such file"):
        prepare("rparis6k", root)
    (root / "gnd_roxford5k.pkl").rename(root / "gnd_rparis6k.pkl")
    assert prepared("rparis6k", root)[0].name == "rparis6k"


@pytest.mark.parametrize(
    ("images", "queries", "entry", "message"),
    [
        (
            NAMES,
            QUERIES,
            {"easy": [1, 6]},
            r"gnd\[0\] \(all.*\): easy: .* from 0 to 5, found 6 \(does it count from 1\?\)",
        ),
        (NAMES, QUERIES, {"junk": [-1]}, r"gnd\[0\] .*: junk: expected numbers from 0 to 5, found -1"),
        (NAMES, QUERIES, {"hard": [1.5]}, "hard: expected a list of whole numbers, found list"),
        (NAMES, QUERIES, {"hard": None}, "hard: expected a list of whole numbers, found nothing"),
        (
            NAMES,
            QUERIES,
            {"hard": [3]},
            r"expected each image once, found 'oxford_000003' 2 times \(in 'easy', 'hard'\)",
        ),
        (NAMES, QUERIES, {"easy": [], "hard": []}, r"gnd\[0\] .*: expected at least one image in 'easy', 'hard'"),
        (NAMES, QUERIES, {"bbx": [0, 0, 99, 9]}, r"gnd\[0\] .*: bbx: .* inside 40 x 30 pixels, found \[0.0, 0.0, 99"),
        (NAMES, QUERIES, {"bbx": [0, 0, 9]}, "bbx: expected a box as four numbers"),
        (NAMES, QUERIES, {"bbx": "x"}, "bbx: expected four numbers x1 y1 x2 y2, found str 'x'"),
        (["gone", *NAMES[1:]], QUERIES, {}, r"imlist\[0\]: expected an image below jpg/, found none named 'gone'"),
        (NAMES, ["gone", QUERIES[1]], {}, r"qimlist\[0\]: expected an image below jpg/, found none named 'gone'"),
        ([*NAMES[:5], QUERIES[0]], QUERIES, {}, r"imlist\[5\]: expected no queries among the images"),
        ([*NAMES[:5], NAMES[0]], QUERIES, {}, "imlist: expected each image once, found 'oxford_000000' 2 times"),
        (NAMES, QUERIES[:1], {}, "gnd: expected 1 entries, as many as qimlist has, found 2"),
        ("none", QUERIES, {}, r"gnd\[0\] .*: easy: expected numbers from 0 to 0"),
        (3, QUERIES, {}, "imlist: expected a list of names of images, found int 3"),
    ],
)
def test_bad_lists_are_named_with_file_and_entry(
    tmp_path: Path, images: Any, queries: list[str], entry: dict[str, Any], message: str
) -> None:
    write_photos(tmp_path, [*NAMES, *QUERIES])
    file = tmp_path / "gnd_roxford5k.pkl"
    write_lists(file, images, queries, [ENTRIES[0] | entry, ENTRIES[1]])
    with pytest.raises(BadGroundTruthError, match=message) as caught:
        prepare("roxford5k", tmp_path)
    assert str(file) in str(caught.value)


def test_all_problems_of_a_file_come_at_once(root: Path) -> None:
    bad = [dict(ENTRIES[0], easy=[9], hard=[8]) for _ in range(7)]
    queries = [f"q{n}" for n in range(7)]
    write_lists(root / "gnd_roxford5k.pkl", NAMES, queries, bad)
    with pytest.raises(BadGroundTruthError, match=r"gnd\[0\] \(q0\): easy(.|\n)*gnd\[4\] \(q4\): hard.*\n  and 4 more"):
        prepare("roxford5k", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pickle", "expected a pickle of plain values and NumPy arrays, found UnpicklingError"),
        (b"\x80\x04cos\nsystem\n(X\x02\x00\x00\x00lstR.", "os.system, which would have to be executed"),
        (b"\x80\x04]q\x00.", "expected a dict of imlist, qimlist and gnd, found list"),
        (b"\x80\x04}q\x00.", "expected the keys 'imlist', 'qimlist', 'gnd', found"),
    ],
)
def test_files_that_are_no_ground_truth(root: Path, content: bytes, message: str) -> None:
    (root / "gnd_roxford5k.pkl").write_bytes(content)
    with pytest.raises(BadGroundTruthError, match=message):
        prepare("roxford5k", root)
