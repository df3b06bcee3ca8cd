from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.detectors.stored_boxes import PlacedBoxes
from objemb.images.sources import ImageRef, SkippedImage
from objemb.index.collection import ImageCollection
from objemb.index.opening import create_index
from objemb.index.storage.manifest import MANIFEST_FILE
from objemb.index.store import Index
from objemb.models import build_model, load_model, save_model
from objemb.models.row_schema import row_schema
from objemb.search import block_stream, blocks
from objemb.search.block_stream import BlockFolder, Distribution
from objemb.search.blocks import Block, BlockDescriber, Describing, Task
from objemb.search.executors.base import Executor, Start
from objemb.search.executors.processes import _Process
from objemb.search.indexing import Job, Report
from tests.cli.conftest import Run, parsed
from tests.models.conftest import RMAC


class Here(Executor):
    """Runs tasks in this process.

    Args:
        lost: Whether a task has no result.
        twice: Whether all results come twice.
    """

    threads = 1

    def __init__(self, lost: Callable[[Task], bool] = lambda task: False, twice: bool = False) -> None:
        self.lost, self.twice = lost, twice
        self.given: list[list[str]] = []

    @classmethod
    def at(cls, place: str) -> Here:
        raise NotImplementedError

    def map(self, start: Start, tasks: Iterable[bytes], *, threads: int, accelerated: bool) -> Iterator[bytes]:
        worker = start(0)
        for task in tasks:
            parsed_task = Task.from_bytes(task)
            self.given.append([photo.id for photo in parsed_task.photos])
            if not self.lost(parsed_task):
                yield from [worker(task)] * (1 + self.twice)


@pytest.fixture(scope="session")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with several rows per photo."""
    folder = tmp_path_factory.mktemp("models") / "regions"
    save_model(build_model({**RMAC, "aggregator": {"name": "keep"}}), folder)
    return folder


class Target:
    """Jobs with the same photos, model and index."""

    def __init__(self, photos: Path, model: Path, path: Path) -> None:
        self.photos, self.model, self.blocks = photos, load_model(model), path.with_name(f"{path.name}.blocks")
        schema = row_schema(self.model)
        self.index: ImageCollection = Index.create(path, schema=schema, fingerprint=self.model.fingerprint)
        self.skipped: list[SkippedImage] = []

    def run(self, executor: Executor | None, size: int = 2, on_step: Callable[[int], None] = lambda n: None) -> Report:
        on = None if executor is None else Distribution(executor, self.blocks, size, "cpu")
        job = Job(self.index, self.model, [self.photos], on=on, on_skip=self.skipped.append, on_step=on_step)
        return job.run()


@pytest.fixture
def target(photos: Path, regions: Path, tmp_path: Path) -> Target:
    return Target(photos, regions, tmp_path / "made")


def assert_same(one: ImageCollection, other: ImageCollection) -> None:
    """The same photos with the same rows."""
    assert one.stamps() == other.stamps()
    assert len(one) == len(one.stamps())
    for image in one.stamps():
        mine, theirs = one.get(image), other.get(image)
        assert mine is not None
        assert theirs is not None
        assert mine.metadata == theirs.metadata
        assert np.array_equal(mine.regions.boxes, theirs.regions.boxes)
        assert mine.regions.size == theirs.regions.size
        assert mine.vectors == pytest.approx(theirs.vectors, abs=1e-6)


def test_blocks_make_the_index_of_a_single_process(target: Target, regions: Path, tmp_path: Path) -> None:
    (target.photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    alone = Target(target.photos, regions, tmp_path / "alone")
    alone.run(None)
    executor = Here(twice=True)
    assert target.run(executor) == Report(added=6, skipped=1)
    assert target.skipped == alone.skipped
    assert [s.id for s in target.skipped] == ["broken.png"]
    assert target.index.info()["regions"] > 12
    assert_same(target.index, alone.index)
    assert executor.given == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png", "5.png"], ["broken.png"]]
    assert not target.blocks.exists()

    (target.photos / "3.png").write_bytes((target.photos / "4.png").read_bytes())
    executor.given.clear()
    assert target.run(executor) == Report(updated=1, unchanged=5, skipped=1)
    assert executor.given == [["3.png", "broken.png"]]
    assert len(target.index) == 6


def test_a_photo_that_kills_processes_is_found_and_skipped(target: Target) -> None:
    executor = Here(lost=lambda task: any(photo.id == "4.png" for photo in task.photos))
    assert target.run(executor, size=6) == Report(added=5, skipped=1)
    assert [(s.id, s.path) for s in target.skipped] == [("4.png", str(target.photos / "4.png"))]
    assert "processes that described it died" in target.skipped[0].reason
    assert executor.given[1:4] == [[], ["0.png", "1.png", "2.png"], ["3.png", "4.png", "5.png"]]
    assert sorted(target.index.stamps()) == ["0.png", "1.png", "2.png", "3.png", "5.png"]


def test_processes_that_die_without_a_photo_end_the_job(target: Target) -> None:
    with pytest.raises(ObjembError, match=r"expected processes that keep running with the model .*die even without a"):
        target.run(Here(lost=lambda task: True), size=6)
    assert len(target.index) == 0


def test_what_a_killed_run_has_published_in_blocks_is_taken_in(target: Target) -> None:
    def killed(done: int) -> None:
        raise SystemExit  # the writer drops what it has not published

    with pytest.raises(SystemExit):
        target.run(Here(), size=3, on_step=killed)
    assert len(target.index) == 0
    assert len(BlockFolder(target.blocks).names()) == 1
    # one of its photos has changed since
    (target.photos / "1.png").write_bytes((target.photos / "4.png").read_bytes())
    executor = Here()
    assert target.run(executor, size=3) == Report(added=6)
    assert executor.given == [["1.png", "3.png", "4.png"], ["5.png"]]
    assert not target.blocks.exists()
    changed = target.index.get("1.png"), target.index.get("4.png")
    assert changed[0].vectors == pytest.approx(changed[1].vectors, abs=1e-6)


@pytest.mark.parametrize("damage", ["empty", "foreign", "cut"])
def test_left_blocks_that_do_not_fit_are_described_anew(target: Target, model: Path, damage: str) -> None:
    folder = target.blocks / "0123"
    target.blocks.mkdir()
    if damage == "empty":
        folder.mkdir()
    else:
        other = load_model(model)
        fingerprint = other.fingerprint if damage == "foreign" else target.model.fingerprint
        made = Index.create(folder, schema=row_schema(target.model), fingerprint=fingerprint)
        with made.writer() as writer:
            writer.add(target.model.describe(target.photos / "0.png"), stamp="s")
        if damage == "cut":
            (folder / MANIFEST_FILE).write_bytes((folder / MANIFEST_FILE).read_bytes()[:-9])
    executor = Here()
    assert target.run(executor, size=6) == Report(added=6)
    assert len(executor.given[0]) == 6


def test_a_block_with_other_photos_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Block.from_bytes
    monkeypatch.setattr(
        block_stream.Block,
        "from_bytes",
        lambda content: Block(of(content).name, of(content).files, (SkippedImage("x", "x", "no reason"),)),
    )
    with pytest.raises(ObjembError, match="expected 6 photos described or skipped, found 6 and 1"):
        target.run(Here(), size=6)


def test_names_of_tasks_say_what_is_in_them() -> None:
    photos = [ImageRef("a", Path("a.png")), ImageRef("b\udcff", Path("b\udcff.png"), {"shop": 3})]
    stamps = {"a": "1", "b\udcff": "2", "c": "3"}
    task = Task.of(photos, stamps, "model")
    assert Task.from_bytes(task.to_bytes()) == task
    assert task.name == Task.of(photos, stamps, "model").name
    others = [
        Task.of(photos, stamps, "another"),
        Task.of(photos, {**stamps, "a": "9"}, "model"),
        Task.of(photos[:1], stamps, "model"),
        Task.of([photos[0], ImageRef("b\udcff", Path("b\udcff.png"), {"shop": 4})], stamps, "model"),
    ]
    assert len({task.name, *(other.name for other in others)}) == 5
    assert [half.photos for half in task.halves("model")] == [(photos[0],), (photos[1],)]


def test_a_block_there_and_back() -> None:
    block = Block("name", {"a": b"123", "b": b""}, (SkippedImage("i", "p", "r"),))
    assert Block.from_bytes(block.to_bytes()) == block
    boxed = replace(block, boxes=(PlacedBoxes("i", "7", 2, True, False, (("annotations[3]", "wrong"),)),))
    assert Block.from_bytes(boxed.to_bytes()) == boxed
    with pytest.raises(ValueError, match="block name: expected 125 bytes, found 124"):
        Block.from_bytes(block.to_bytes()[:-1])


def test_workers_refuse_another_model_or_version(regions: Path, model: Path) -> None:
    fingerprint = load_model(model).fingerprint
    with pytest.raises(
        ArtefactMismatchError, match=f"on a worker: expected the model with fingerprint '{fingerprint}'"
    ):
        BlockDescriber(Describing(str(regions), fingerprint, device="cpu"), 0)
    with pytest.raises(ArtefactMismatchError, match=r"objemb on a worker: expected version 0\.0\.0"):
        BlockDescriber(Describing(str(regions), fingerprint, version="0.0.0"), 0)


def test_several_gpus_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [blocks._device(name, 3) for name in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
        "cuda:0",
    ]


def test_a_process_killed_in_the_middle_loses_and_doubles_nothing(
    run: Run, photos: Path, regions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give, given = _Process.give, []

    def give_and_kill(self: _Process, task: bytes) -> None:
        give(self, task)
        given.append(task)
        if len(given) == 3:
            self._process.kill()

    monkeypatch.setattr(_Process, "give", give_and_kill)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    made, alone = tmp_path / "made", tmp_path / "alone"
    options = ("--model", regions, "--json")
    report = parsed(run("index", photos, "-o", made, *options, "--on", "processes=1", "--block-size", 1, code=3))
    assert (report["added"], report["skipped"], report["images"]) == (6, 1, 6)
    assert given.count(given[2]) == 2
    assert len(given) == 8
    run("index", photos, "-o", alone, *options, code=3)
    assert_same(Index.open(made), Index.open(alone))
    listing = [json.loads(line) for line in (tmp_path / "made.skipped.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listing] == ["broken.png"]
    assert not (tmp_path / "made.blocks").exists()


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("threads=2", "--on: expected one of"),
        ("processes", "--on: expected a number of processes such as processes=4, found ''"),
        ("processes=0", "--on: expected a number of processes such as processes=4, found '0'"),
        ("ray://head", "--on: expected a place such as ray://head:6379, or ray, found 'head'"),
    ],
)
def test_places_that_are_wrong(run: Run, photos: Path, model: Path, tmp_path: Path, on: str, message: str) -> None:
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, "--on", on, code=2)
    assert message in result.stderr
    assert not (tmp_path / "index").exists()


def test_boxes_of_a_file_go_with_the_photos(
    run: Run, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = json.loads((tmp_path / "boxes.json").read_text())
    boxes["images"][4] |= {"width": 60, "height": 50}  # made on a smaller copy
    boxes["annotations"][4]["bbox"] = [30, 10, 20, 20]
    boxes["images"][5] |= {"width": 33, "height": 90}  # of another frame
    boxes["annotations"].append({"id": 9, "image_id": 0, "category_id": 1, "bbox": [500, 500, 5, 5]})
    boxes["annotations"][1]["segmentation"] = {"size": [100, 120], "counts": [12000]}
    del boxes["images"][1]["width"], boxes["images"][1]["height"]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (photos / "more").mkdir()
    (photos / "more" / "3.png").write_bytes((photos / "3.png").read_bytes())  # a second photo of this name
    (photos / "none.png").write_bytes((photos / "3.png").read_bytes())
    monkeypatch.setattr("objemb.search.executors.base.executor_of", lambda where: Here())
    options = ("--model", model, "--boxes", tmp_path / "boxes.json", "--json")
    reports, listings = [], []
    for name, more in (("alone", ()), ("made", ("--on", "processes=2", "--block-size", 3))):
        report = parsed(run("index", photos, "-o", tmp_path / name, *options, *more, code=3))
        listings.append({*(tmp_path / f"{name}.skipped.jsonl").read_text().splitlines()})
        reports.append({key: report[key] for key in ("added", "images", "regions", "boxes_used", "box_problems")})
    assert reports[0] == reports[1]
    assert listings[0] == listings[1]
    assert (reports[0]["boxes_used"], reports[0]["box_problems"]) == (5, 4)
    assert_same(Index.open(tmp_path / "made"), Index.open(tmp_path / "alone"))


@pytest.mark.lance
@pytest.mark.skipif(importlib.util.find_spec("lancedb") is None, reason="LanceDB is not installed")
def test_blocks_go_to_an_address_as_into_a_folder(target: Target, tmp_path: Path) -> None:
    folder, schema = target.index, row_schema(target.model)
    target.run(Here())
    target.index = create_index(f"lance:{tmp_path}/shop", schema=schema, fingerprint=target.model.fingerprint)
    assert target.run(Here(twice=True)) == Report(added=6)
    assert_same(target.index, folder)
    executor = Here()
    assert target.run(executor) == Report(unchanged=6)
    assert executor.given == []
