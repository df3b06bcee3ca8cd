"""Oxford5k and Paris6k, in both forms of their ground truth."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from objemb.datasets.benchmarks import MissingFilesError, prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from objemb.datasets.benchmarks.paris6k import CORRUPT
from objemb.datasets.protocols import PROTOCOLS
from tests.datasets.benchmarks.miniature import prepared, write_lists, write_photos, write_texts
from tests.datasets.benchmarks.scoring import scored

NAMES = ["all_souls_000000", "all_souls_000001", "oxford_000002", "oxford_000003", "worcester_000004"]
BOX = "3.5 4 30.25 20"


@pytest.fixture
def oxford(tmp_path: Path) -> Path:
    """Two queries of one landmark and one of another, in text files."""
    write_photos(tmp_path, NAMES)
    lists = {"good": NAMES[:2], "ok": [NAMES[3]], "junk": [NAMES[2]]}
    write_texts(tmp_path / "gt", "all_souls_1", f"oxc1_{NAMES[0]} {BOX}", **lists)
    write_texts(tmp_path / "gt", "all_souls_2", f"oxc1_{NAMES[3]} 0 0 40 30\n", **lists)
    write_texts(tmp_path / "gt", "worcester_1", f"oxc1_{NAMES[4]} {BOX}", good=[NAMES[4]])
    return tmp_path


def files(*numbers: int) -> list[str]:
    return [f"jpg/{NAMES[n]}.jpg" for n in numbers]


def test_oxford_from_text_files(oxford: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data, written = prepared("oxford5k", oxford)
    assert "expected 5,062 or 5,063 images, found 5" in caplog.text
    assert (data.path, data.name, data.crop) == (oxford / "oxford5k.json", "oxford5k", "scaled")
    assert data.protocol is PROTOCOLS["oxford"]
    assert [e.file for e in data.images] == files(0, 1, 2, 3, 4)
    first, second, third = data.queries
    assert (first.file, first.instances, first.box) == (files(0)[0], ("all_souls",), (3.5, 4, 30.25, 20))
    assert first.attributes == {"query": "all_souls_1"}
    assert second.box == (0, 0, 40, 30)
    assert third.instances == ("worcester",)
    assert written["queries"][0]["relevant"] == {"good": files(0, 1), "ok": files(3), "junk": files(2)}
    assert [(o.file, o.instances, o.box) for o in data.objects] == [
        (q.file, q.instances, q.box) for q in (first, second, third)
    ]


def test_scores_of_oxford_by_hand(oxford: Path) -> None:
    """methods.md 10.1 and 10.2: good and ok count, the query's own photo too, junk leaves the list."""
    data, _ = prepared("oxford5k", oxford)
    orders = [files(0, 2, 4, 3, 1), files(4, 3, 2, 0, 1), files(0, 1, 2, 3, 4)]
    found = scored(data, orders)
    first = ((1 + 1) + (1 / 2 + 2 / 3) + (2 / 3 + 3 / 4)) / 6  # without junk 0 4 3 1: ranks 0, 2, 3
    second = ((0 + 1 / 2) + (1 / 2 + 2 / 3) + (2 / 3 + 3 / 4)) / 6  # 4 3 0 1: ranks 1, 2, 3
    third = (0 + 1 / 5) / 2  # rank 4
    assert [q["average_precision"] for q in found.scores.per_query] == pytest.approx([first, second, third])
    assert found.scores.means["mAP"] == pytest.approx((first + second + third) / 3)
    assert found.scores.means["mP@5"] == pytest.approx((3 / 4 + 3 / 4 + 1 / 5) / 3)


def test_the_pickle_says_the_same_and_goes_first(oxford: Path) -> None:
    entries = [
        {"bbx": [3.5, 4, 30.25, 20], "ok": [0, 1, 3], "junk": [2]},
        {"bbx": [0, 0, 40.6, 30], "ok": [0, 1, 3], "junk": [2]},  # a box may be off by a pixel, and is cut off
        {"bbx": [3.5, 4, 30.25, 20], "ok": [4], "junk": []},
    ]
    order = [files(0, 2, 4, 3, 1), files(4, 3, 2, 0, 1), files(0, 1, 2, 3, 4)]
    by_text = scored(prepared("oxford5k", oxford)[0], order).scores
    write_lists(oxford / "gnd_oxford5k.pkl", NAMES, [NAMES[0], NAMES[3], NAMES[4]], entries)
    data, written = prepared("oxford5k", oxford)
    assert written["queries"][0]["relevant"] == {"ok": files(0, 1, 3), "junk": files(2)}
    assert [q.instances for q in data.queries] == [(NAMES[0],), (NAMES[0],), (NAMES[4],)], "as the lists are the same"
    assert data.queries[1].box == (0, 0, 40, 30)
    assert scored(data, order).scores.means == pytest.approx(by_text.means)


def test_full_queries_are_flagged(oxford: Path) -> None:
    data, _ = prepared("oxford5k", oxford, queries="full")
    assert (data.path.name, data.name) == ("oxford5k-full.json", "oxford5k with full queries")
    assert all(q.box is None for q in data.queries)
    assert data.objects[0].box == (3.5, 4, 30.25, 20)
    with pytest.raises(ValueError, match="did you mean 'full'"):
        prepare("oxford5k", oxford, queries="ful")


def test_paris_leaves_damaged_files_out(tmp_path: Path) -> None:
    damaged = sorted(CORRUPT)
    assert len(damaged) == 20
    names = ["paris_louvre_000001", "paris_louvre_000002"]
    for name in names:
        write_photos(tmp_path, [name], folder=f"jpg/{name.split('_')[1]}")  # as the archive has them
    for name in damaged:
        (tmp_path / "jpg" / f"{name}.jpg").write_text("<html>302 Found</html>")
    lists = {"good": names, "junk": damaged[:1]}
    write_texts(tmp_path / "paris_120310", "louvre_1", f"{names[0]} 1 2 30 20", **lists)
    data, written = prepared("paris6k", tmp_path)
    assert [e.file for e in data.images] == [f"jpg/louvre/{name}.jpg" for name in names]
    assert written["queries"][0]["relevant"]["junk"] == []
    entries = [{"bbx": [1, 2, 30, 20], "ok": [1, 2], "junk": [0]}]
    write_lists(tmp_path / "gnd_paris6k.pkl", [damaged[0], *names], names[:1], entries)
    data, written = prepared("paris6k", tmp_path)
    assert len(data.images) == 2
    assert written["queries"][0]["relevant"] == {"ok": [e.file for e in data.images], "junk": []}


def test_missing_files_are_reported_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"jpg/: no such folder\n.*gnd_oxford5k.pkl(.|\n)*Visual Geometry"):
        prepare("oxford5k", tmp_path)
    (tmp_path / "jpg").mkdir()
    for folder in ("gt", "other"):
        write_texts(tmp_path / folder, "a_1", "x 0 0 1 1")
    with pytest.raises(MissingFilesError, match=r"no images in this folder\n.*found them in 'gt', 'other'"):
        prepare("oxford5k", tmp_path)
    with pytest.raises(MissingFilesError, match="nowhere: no such folder"):
        prepare("oxford5k", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("query", "lists", "message"),
    [
        (
            "oxc1_gone 0 0 1 1",
            {"good": NAMES[:1]},
            r"a_1_query.txt: expected an image below jpg/, found none .* 'gone'",
        ),
        (f"{NAMES[0]} 0 0 1", {"good": NAMES[:1]}, "a_1_query.txt: expected the name of an image and four numbers"),
        (f"{NAMES[0]} 0 0 1 x", {"good": NAMES[:1]}, "four numbers x1 y1 x2 y2, found 'all_souls_000000 0 0 1 x'"),
        (f"{NAMES[0]} 0 0 90 9", {"good": NAMES[:1]}, r"a_1_query.txt: .* inside 40 x 30 pixels, found \[0.0, 0.0, 90"),
        (f"{NAMES[0]} 5 0 5 9", {"good": NAMES[:1]}, "expected a box x1 < x2"),
        (f"{NAMES[0]} 0 0 nan 9", {"good": NAMES[:1]}, "expected a box as four numbers"),
        (f"{NAMES[0]} 0 0 9 9", {"junk": NAMES[:1]}, "a_1: expected at least one image in 'good', 'ok', found none"),
        (f"{NAMES[0]} 0 0 9 9", {"ok": ["x", "y"]}, r"a_1_ok.txt:1: .* none named 'x'\n  a_1_ok.txt:2: .*'y'"),
        (f"{NAMES[0]} 0 0 9 9", {"ok": NAMES[:1], "junk": NAMES[:1]}, "a_1: expected each image once.*'ok', 'junk'"),
    ],
)
def test_bad_text_files_are_named(tmp_path: Path, query: str, lists: dict[str, list[str]], message: str) -> None:
    write_photos(tmp_path, NAMES)
    write_texts(tmp_path / "gt", "a_1", query, **lists)
    with pytest.raises(BadGroundTruthError, match=message) as caught:
        prepare("oxford5k", tmp_path)
    assert str(tmp_path / "gt") in str(caught.value)
    assert not list(tmp_path.glob("*.json*"))


def test_a_missing_list_and_a_damaged_photo(oxford: Path) -> None:
    (oxford / "gt" / "worcester_1_junk.txt").unlink()
    with pytest.raises(
        BadGroundTruthError, match=r"worcester_1_junk.txt: expected a list of images, found no such file"
    ):
        prepare("oxford5k", oxford)
    (oxford / "gt" / "worcester_1_junk.txt").touch()
    (oxford / "jpg" / f"{NAMES[4]}.jpg").write_bytes(b"")
    with pytest.raises(BadGroundTruthError, match=r"worcester_1_query.txt: expected a photo .* empty file"):
        prepare("oxford5k", oxford)


def test_two_photos_of_a_name(oxford: Path) -> None:
    write_photos(oxford, NAMES[:1], folder="jpg/again")
    with pytest.raises(
        BadGroundTruthError, match=r"all_souls_000000: expected one image of this name, found jpg/again/"
    ):
        prepare("oxford5k", oxford)
