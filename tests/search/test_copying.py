from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError
from objemb.index.opening import create_index, open_index
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.search import copying
from objemb.search.copying import Copy, CopyReport, same_answer
from objemb.structures import Match, RegionDescriptors, Regions, SearchResult
from tests.cli.conftest import Run, parsed


def described(number: int, seed: int = 0) -> RegionDescriptors:
    """An image of ``number % 4`` boxes."""
    random = np.random.default_rng([seed, number])
    count = number % 4
    vectors = random.normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    corners = random.uniform(0, 20, size=(count, 2)).astype(np.float32)
    regions = Regions(
        np.concatenate([corners, corners + 9], axis=1),
        (40, 50),
        scores=random.random(count).astype(np.float32),
        labels=np.arange(count) % 2,
        classes=("cup", "shoe"),
    )
    metadata = {"shop": None if number % 3 else f"b{number}", "price": number / 8, "stock": number}
    return RegionDescriptors(f"{number:02d}.jpg", regions, vectors, metadata)


@pytest.fixture
def source(tmp_path: Path) -> Index:
    """Twenty images; the one without boxes has no stamp."""
    model = {"path": "/models/one"}
    index = Index.create(tmp_path / "source", schema=UnitVectors(8), fingerprint="f", model=model)
    with index.writer() as writer:
        for number in range(20):
            writer.add(described(number), stamp=f"stamp {number}" if number % 4 else None)
    return index


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_copy_is_the_same(source: Index, tmp_path: Path, dtype: str) -> None:
    target = create_index(tmp_path / "target", schema=UnitVectors(8, dtype), fingerprint="f", model=source.model)
    steps: list[int] = []
    assert Copy(source, target, steps.append).run() == CopyReport(copied=20, compared=20, searched=10)
    assert sum(steps) == 20
    assert target.stamps() == source.stamps()
    assert target.model == {"path": "/models/one"}
    one, other = source.get("07.jpg"), target.get("07.jpg")
    assert one is not None
    assert other is not None
    assert np.array_equal(one.regions.boxes, other.regions.boxes)
    assert other.metadata == {"shop": "b7" if 7 % 3 == 0 else None, "price": 0.875, "stock": 7}
    assert other.regions.label_names == ("cup", "shoe", "cup")
    # what has no stamp may have changed, and is copied again
    assert Copy(source, target).run() == CopyReport(copied=5, kept=15, compared=20, searched=10)


def test_an_interrupted_copy_goes_on(source: Index, tmp_path: Path) -> None:
    target = create_index(tmp_path / "target", schema=UnitVectors(8), fingerprint="f")

    def interrupted(count: int, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(count)
        if len(seen) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Copy(source, target, interrupted).run()
    assert len(target) == 8
    report = Copy(source, target).run()
    assert (report.copied, report.kept) == (14, 6)
    with source.writer() as writer:
        writer.add(described(7, seed=1), stamp="new")
    assert Copy(source, target).run().kept == 14


def test_an_empty_index_is_copied(tmp_path: Path) -> None:
    source, target = (
        Index.create(tmp_path / name, schema=UnitVectors(8), fingerprint="f") for name in ("source", "target")
    )
    assert Copy(source, target).run() == CopyReport()


def test_what_cannot_be_the_target(source: Index, tmp_path: Path) -> None:
    other = Index.create(tmp_path / "model", schema=UnitVectors(8), fingerprint="g")
    with pytest.raises(ArtefactMismatchError, match=r"expected the model with fingerprint 'g'.* found 'f'"):
        Copy(source, other).run()
    longer = Index.create(tmp_path / "longer", schema=UnitVectors(9), fingerprint="f")
    with pytest.raises(ArtefactMismatchError, match=r"expected rows .*'dim': 8.* found .*'dim': 9"):
        Copy(source, longer).run()
    full = Index.create(tmp_path / "full", schema=UnitVectors(8), fingerprint="f")
    with full.writer() as writer:
        writer.add(replace(described(3), image="mine.jpg"))
    with pytest.raises(
        ValueError, match=r"expected only images of .*source, found 1 others: 'mine\.jpg'; copy to a new"
    ):
        Copy(source, full).run()
    assert len(full) == 1


def test_a_copy_that_differs_is_an_error(source: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Index.create(tmp_path / "target", schema=UnitVectors(8), fingerprint="f")
    with target.writer() as writer:  # as if an earlier copy had written other rows
        writer.add(described(7, seed=1), stamp="stamp 7")
    with pytest.raises(ArtefactMismatchError, match=r"found others of 1 of 20 images that were compared: '07\.jpg'"):
        Copy(source, target).run()
    monkeypatch.setattr(copying, "COMPARED_IMAGES", 3)  # the first, the tenth and the last
    with pytest.raises(ArtefactMismatchError, match=r"expected the answer of .*source to a search for '09\.jpg'"):
        Copy(source, target).run()


def answer(**scores: float) -> SearchResult:
    box = (0.0, 0.0, 1.0, 1.0)
    return SearchResult("q", (box,), tuple(Match(image, score, box, box) for image, score in scores.items()))


def test_answers_that_differ_in_ties_only_are_the_same() -> None:
    one = answer(a=0.9, b=0.5, c=0.5)
    assert same_answer(one, answer(a=0.9, c=0.50001, b=0.5))
    assert same_answer(one, answer(a=0.9, b=0.5, d=0.5))  # another one of those with the score of the last
    assert same_answer(answer(), answer())
    assert not same_answer(one, answer(a=0.9, b=0.5))
    assert not same_answer(one, answer(d=0.9, b=0.5, c=0.5))
    assert not same_answer(one, answer(a=0.9, b=0.5, c=0.4))


def test_the_command(run: Run, source: Index, tmp_path: Path) -> None:
    path = tmp_path / "there" / "target"
    report = parsed(run("copy", source.path, path, "--json"))
    assert (report["index"], report["copied"], report["images"], report["searched"]) == (str(path), 20, 20, 10)
    result = run("copy", source.path, path)
    assert f"{path}: 20 images (5 copied, 15 there before)" in result.stdout
    assert "rows of 20 and the answers to 10" in result.stdout
    assert len(open_index(path)) == 20
    with source.writer() as writer:
        writer.delete(["03.jpg"])
    assert "found 1 others: '03.jpg'" in run("copy", source.path, path, code=2).stderr
    assert "expected" in run("copy", tmp_path / "nowhere", path, code=2).stderr


@pytest.mark.lance
@pytest.mark.skipif(importlib.util.find_spec("lancedb") is None, reason="LanceDB is not installed")
def test_to_an_address_and_back(run: Run, source: Index, tmp_path: Path) -> None:
    there, back = f"lance:{tmp_path}/shop", tmp_path / "back"
    assert parsed(run("copy", source.path, there, "--json"))["copied"] == 20
    assert parsed(run("copy", there, back, "--json"))["copied"] == 20
    copied = open_index(back)
    assert copied.stamps() == source.stamps()
    assert (copied.fingerprint, copied.model) == (source.fingerprint, source.model)
    for image in source.stamps():
        one, other = source.get(image), copied.get(image)
        assert one is not None
        assert other is not None
        assert np.array_equal(one.regions.boxes, other.regions.boxes)
        assert np.array_equal(one.regions.scores, other.regions.scores)
        assert one.regions.label_names == other.regions.label_names
        assert dict(one.metadata) == dict(other.metadata)
    half = Index.create(tmp_path / "half", schema=UnitVectors(8, "float16"), fingerprint="f")
    Copy(source, half).run()
    assert parsed(run("copy", half.path, f"lance:{tmp_path}/half", "--json"))["compared"] == 20
