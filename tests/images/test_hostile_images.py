"""A folder full of damaged and hostile files: the run ends, good photos come out, the rest is reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from objemb.images import SkippedImage, find_images, read_photo, stream_photos
from objemb.images.decode import UnreadableImageError
from tests.images import mutations


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, mutations.write_folder(folder, count=400, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_good_photos_come_out_and_bad_ones_are_reported(hostile: tuple[Path, dict], workers: int) -> None:
    folder, truth = hostile
    outcomes = list(stream_photos(find_images([folder]), workers=workers))
    photos = {o.id: list(o.size) for o in outcomes if not isinstance(o, SkippedImage)}
    skipped = {o.id: o.reason for o in outcomes if isinstance(o, SkippedImage)}

    assert len(truth["good"]) > 50
    assert len(truth["bad"]) > 50
    assert len(truth["mutated"]) > 100
    assert truth["good"].items() <= photos.items()
    assert truth["bad"].keys() <= skipped.keys()
    assert photos.keys() | skipped.keys() == {n for names in truth.values() for n in names}
    assert len(outcomes) == len(photos) + len(skipped)
    assert all(len(reason) > 5 and "\n" not in reason for reason in skipped.values())


def test_the_run_is_the_same_with_threads_and_without(hostile: tuple[Path, dict]) -> None:
    def run(workers: int) -> list[tuple]:
        outcomes = stream_photos(find_images([hostile[0]]), workers=workers, max_pixels=3000)
        return [(o.id, o.reason if isinstance(o, SkippedImage) else o.pixels.sum().item()) for o in outcomes]

    assert run(0) == run(3)


def test_no_python_warning_leaks_even_where_warnings_are_errors(hostile: tuple[Path, dict]) -> None:
    # in a process of its own: pytest keeps warning filters of its own
    program = (
        "import sys; from objemb.images import find_images, stream_photos\n"
        "import json; found = [type(o).__name__ + ' ' + o.id for o in stream_photos(find_images(sys.argv[1:]))]\n"
        "print(json.dumps(found))"
    )
    run = [sys.executable, "-W", "error", "-c", program, str(hostile[0])]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout))
    assert {f"Photo {name}" for name in hostile[1]["good"]} <= found
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", mutations.bombs())
def test_bombs_are_refused_by_their_header(name: str, tmp_path: Path) -> None:
    data, suffix = mutations.bombs()[name]
    assert len(data) < 200_000
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match="too many pixels: expected at most 100,000,000, found"):
        read_photo(path)


@pytest.mark.parametrize("name", mutations.disguises())
def test_other_files_are_refused_whatever_their_name(name: str) -> None:
    data = mutations.disguises()[name]
    with pytest.raises(UnreadableImageError, match=r"empty file|expected one of JPEG, PNG, WebP, BMP, TIFF, found"):
        read_photo(data)
