from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import objemb
from objemb.checks import ArtefactMismatchError, IndexFolderError, IndexLockedError
from objemb.images.sources import SkippedImage
from objemb.index.addresses import parse_address
from objemb.index.collection import ImageCollection
from objemb.index.generations import NEXT, PREVIOUS
from objemb.index.opening import create_index, open_index
from objemb.index.storage import generations
from objemb.index.storage.calibration import Calibration
from objemb.index.store import Index
from objemb.index.stores.base import StoreError
from objemb.index.stores.lance import Lance
from objemb.models import load_model
from objemb.models.base import EmbeddingModel
from objemb.ops.upper_tail import UpperTail
from objemb.search import migration
from objemb.search.copying import Copy
from objemb.search.indexing import MAX_REGIONS, AskedRegions, Job, asked_regions, own_regions, stamp_of_file
from objemb.search.migration import Migration, MigrationReport
from objemb.structures import Described
from tests.cli.conftest import PLACES, draw


@pytest.fixture(scope="module", name="newer")
def loaded(newer: Path) -> EmbeddingModel:
    """Another model of the kind of that of the index."""
    return load_model(newer)


class Hooked:
    """A model that calls something before each image that it describes; all else is that of the model."""

    def __init__(self, model: EmbeddingModel, hook: Callable[[int], None]) -> None:
        self._model = model
        self._hook = hook
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def stream(self, *sources: Any, **arguments: Any) -> Iterator[Described]:
        for described in self._model.stream(*sources, **{**arguments, "batch_size": 1}):
            self._hook(self._count)
            self._count += 1
            yield described


def migrate(index: Path, model: Any, **arguments: Any) -> tuple[MigrationReport, list[SkippedImage]]:
    skipped: list[SkippedImage] = []
    run = Migration(Index.open(index), model, on_skip=skipped.append, workers=1, **arguments)
    return run.run(), skipped


def contents(index: Path) -> dict[str, tuple[Any, ...]]:
    opened = Index.open(index)
    rows = {one.id: (one.stamp, one.metadata, opened.get(one.id)) for one in opened.images()}
    return {
        image: (stamp, metadata, described.regions.boxes.tolist(), described.regions.label_names, described.vectors)  # type: ignore[union-attr]
        for image, (stamp, metadata, described) in rows.items()
    }


def expect_equal(one: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]]) -> None:
    assert one.keys() == other.keys()
    for image in one:
        assert one[image][:-1] == other[image][:-1]
        assert one[image][-1] == pytest.approx(other[image][-1], abs=1e-5)


def test_it_becomes_the_index_that_the_new_model_makes(
    index: Path, newer: EmbeddingModel, photos: Path, tmp_path: Path, run: Any
) -> None:
    before, answers = contents(index), objemb.open(index).search(photos / "1.png", [PLACES[1]])
    report, skipped = migrate(index, newer)
    assert report == MigrationReport(described=6, given=6)
    assert skipped == []
    run("index", photos, "-o", tmp_path / "fresh", "--model", newer.path, "--boxes", tmp_path / "boxes.json")
    expect_equal(contents(index), contents(tmp_path / "fresh"))
    assert Index.open(index).fingerprint == newer.fingerprint
    assert Index.open(index).verify() == []
    assert objemb.open(index).search(photos / "1.png", [PLACES[1]])[0].image == "1.png"
    expect_equal(contents(index / PREVIOUS), before)
    assert objemb.open(index / PREVIOUS).search(photos / "1.png", [PLACES[1]]) == answers
    assert not (index / NEXT).exists()
    again = run("index", photos, "-o", index, "--model", newer.path, "--boxes", tmp_path / "boxes.json", "--json")
    assert json.loads(again.stdout)["unchanged"] == 6


def test_an_open_index_goes_on_with_the_old_generation(index: Path, newer: EmbeddingModel, photos: Path) -> None:
    opened = objemb.open(index)
    query = photos / "2.png"
    before = opened.search(query, [PLACES[2]])
    migrate(index, newer, keep=False)
    assert not (index / PREVIOUS).exists()
    assert opened.search(query, [PLACES[2]]) == before
    assert [hit.image for hit in opened.search(query, [PLACES[2]], rerank=["region_match"])]
    with pytest.raises(ArtefactMismatchError, match="was replaced by another index; open it again"):
        opened.index.refresh()


def test_filters_deleted_images_and_the_approximate_structure_survive(index: Path, newer: EmbeddingModel) -> None:
    opened = Index.open(index)
    opened.delete(["3.png"])
    created = opened.info()["created"]
    migrate(index, newer)
    after = Index.open(index)
    assert sorted(one.id for one in after.images()) == ["0.png", "1.png", "2.png", "4.png", "5.png"]
    assert after.find("label = red") == ["0.png"]
    assert after.info()["created"] == created
    after.delete(["0.png"])
    assert after.compact()
    assert after.verify() == []


@pytest.mark.parametrize("kind", ["rmac", "words"])
def test_the_kind_may_change(index: Path, rmac: Path, photos: Path, kind: str, tmp_path: Path, run: Any) -> None:
    if kind == "words":
        (tmp_path / "words.yaml").write_text(WORDS)
        run("model", "build", tmp_path / "words.yaml", "--fit-on", photos, "-o", tmp_path / "words")
    path = rmac if kind == "rmac" else tmp_path / "words"
    report, _ = migrate(index, load_model(path))
    assert report.given == 6
    assert Index.open(index).verify() == []
    found = objemb.open(index).search(photos / "1.png", [PLACES[1]])
    if kind == "words":
        assert (found[0].image, found[0].box, found[0].label) == ("1.png", PLACES[1], "green")
        return
    run("index", photos, "-o", tmp_path / "fresh", "--model", path, "--boxes", tmp_path / "boxes.json")
    expect_equal(contents(index), contents(tmp_path / "fresh"))
    assert found.hits == objemb.open(tmp_path / "fresh").search(photos / "1.png", [PLACES[1]]).hits


def test_words_give_back_their_boxes(
    index: Path, newer: EmbeddingModel, photos: Path, tmp_path: Path, run: Any
) -> None:
    (tmp_path / "words.yaml").write_text(WORDS)
    run("model", "build", tmp_path / "words.yaml", "--fit-on", photos, "-o", tmp_path / "words")
    run("index", photos, "-o", tmp_path / "w", "--model", tmp_path / "words", "--boxes", tmp_path / "boxes.json")
    report, _ = migrate(tmp_path / "w", newer)
    assert report.given == 6
    migrate(index, newer)
    expect_equal(contents(tmp_path / "w"), contents(index))


WORDS = """
describer:
  name: local
  local_features:
    name: dense
    backbone: {name: torchvision_cnn, arch: mobilenet_v3_small, weights: random, layer: features.1}
    size: 120
    scales: [1.0]
    count: 400
    smoothing: 1
    dim: 16
  regions: {name: detections}
aggregator: {name: asmk, words: 64, form: regional, query_assignments: 2, positions: true}
"""


def test_regions_of_the_model_are_found_anew(
    photos: Path, model: Path, rmac: Path, newer: EmbeddingModel, tmp_path: Path, run: Any
) -> None:
    run("index", photos, "-o", tmp_path / "grid", "--model", rmac)
    report, _ = migrate(tmp_path / "grid", newer)
    assert (report.described, report.given) == (6, 0)
    assert {tuple(map(tuple, boxes)) for _, _, boxes, _, _ in contents(tmp_path / "grid").values()} == {
        ((0, 0, 120, 100),)
    }


def test_given_boxes_that_are_not_stored(
    photos: Path, rmac: Path, newer: EmbeddingModel, tmp_path: Path, run: Any
) -> None:
    run("index", photos, "-o", tmp_path / "one", "--model", rmac, "--boxes", tmp_path / "boxes.json")
    with pytest.raises(ValueError, match=r"6 of 6 .*its boxes came from a file, and an index with one row per photo"):
        migrate(tmp_path / "one", newer)
    assert Index.open(tmp_path / "one").fingerprint == load_model(rmac).fingerprint


@pytest.mark.parametrize("most", [None, 0, 7, MAX_REGIONS])
def test_stamps_tell_how_regions_were_chosen(index: Path, photos: Path, model: Path, most: int | None) -> None:
    opened = Index.open(index)
    given = next(iter(opened.images()))
    assert asked_regions(given.stamp or "", given.metadata) == AskedRegions(True)
    Job(opened, load_model(model), [photos], max_regions=most).run()
    own = next(iter(opened.images()))
    assert asked_regions(own.stamp or "", own.metadata) == AskedRegions(False, most)
    assert asked_regions(own.stamp or "", {"other": 1}) == AskedRegions(True)
    upload = stamp_of_file(photos / "0.png", own_regions({"price": 3}))
    assert asked_regions(upload, {"price": 3}) == AskedRegions(False, None)
    assert asked_regions(stamp_of_file(photos / "0.png"), {"price": 3}) == AskedRegions(True)


def test_an_interrupted_run_is_resumed(index: Path, newer: EmbeddingModel) -> None:
    def interrupt(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(index, Hooked(newer, interrupt))
    assert Index.open(index).info()[NEXT]["images"] == 4
    assert Index.open(index).fingerprint != newer.fingerprint
    report, _ = migrate(index, newer)
    assert (report.kept, report.described) == (4, 2)
    assert len(Index.open(index)) == 6


def test_what_changes_meanwhile_is_taken_in(index: Path, newer: EmbeddingModel, model: Path, photos: Path) -> None:
    old = load_model(model)

    def change(number: int) -> None:
        if number == 2:
            draw(photos / "6.png", 6)
            draw(photos / "0.png", 0, seed=9)
            Job(Index.open(index), old, [photos]).run()
            Index.open(index).delete(["1.png"])
        if number == 8:  # in a later round
            Index.open(index).compact()
            Index.open(index).delete(["2.png"])

    report, skipped = migrate(index, Hooked(newer, change))
    assert skipped == []
    assert report.left_out == 0
    after = Index.open(index)
    assert {one.id for one in after.images()} == {"0.png", "3.png", "4.png", "5.png", "6.png"}
    stored = after.get("0.png")
    fresh = newer.describe(photos / "0.png")
    assert stored.vectors == pytest.approx(fresh.vectors, abs=1e-5)  # type: ignore[union-attr]


def test_it_waits_for_another_writer(index: Path, newer: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "WAIT_SECONDS", 0.01)
    held, release, notes = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        with Index.open(index).writer() as writer:
            held.set()
            release.wait(30)
            writer.delete(["5.png"])

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)

    def noted(text: str) -> None:
        notes.append(text)
        threading.Timer(0.1, release.set).start()

    migrate(index, newer, on_note=noted)
    thread.join()
    assert len(notes) == 1
    assert "waiting for another writer" in notes[0]
    assert "5.png" not in Index.open(index)


def test_photos_that_are_gone_are_left_out_and_named(index: Path, newer: EmbeddingModel, photos: Path) -> None:
    (photos / "1.png").unlink()
    draw(photos / "2.png", 2, seed=5)
    os.utime(photos / "2.png", ns=(1, 1))
    status = (photos / "3.png").stat()
    (photos / "3.png").write_bytes(b"\0" * status.st_size)
    os.utime(photos / "3.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    report, skipped = migrate(index, newer)
    assert (report.described, report.left_out) == (3, 3)
    reasons = {one.id: one.reason for one in skipped}
    assert reasons["1.png"] == "removed since it was indexed"
    assert reasons["2.png"] == "changed since it was indexed"
    assert set(reasons) == {"1.png", "2.png", "3.png"}
    assert sorted(one.id for one in Index.open(index).images()) == ["0.png", "4.png", "5.png"]


def test_images_without_a_photo_are_left_out(index: Path, newer: EmbeddingModel, model: Path) -> None:
    opened = Index.open(index)
    with opened.writer() as writer:
        writer.add(replace(opened.get("0.png"), image="by hand"))  # type: ignore[type-var, arg-type]
    report, skipped = migrate(index, newer)
    assert report.left_out == 1
    assert skipped[0].reason == "its photo is not known, since 'objemb index' did not add it"


def test_a_missing_drive_does_not_empty_the_index(
    index: Path, newer: EmbeddingModel, photos: Path, tmp_path: Path
) -> None:
    for number in range(4):
        (photos / f"{number}.png").rename(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"4 of 6 images would be left out \(more than half of all, the first is 0"):
        migrate(index, newer)
    assert len(Index.open(index)) == 6
    for number in range(4):
        (tmp_path / f"{number}.png").rename(photos / f"{number}.png")
    report, _ = migrate(index, newer)
    assert (report.kept, report.described, report.left_out) == (2, 4, 0)


def test_an_empty_folder_is_taken_for_a_missing_drive(
    index: Path, newer: EmbeddingModel, model: Path, tmp_path: Path, photos: Path
) -> None:
    (tmp_path / "drive").mkdir()
    draw(tmp_path / "drive" / "x.png", 1)
    Job(Index.open(index), load_model(model), [tmp_path / "drive"]).run()
    (tmp_path / "drive" / "x.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 7 images would be left out .*drive is empty.*force=True"):
        migrate(index, newer)
    report, _ = migrate(index, newer, force=True)
    assert (report.kept, report.left_out, len(Index.open(index))) == (6, 1, 6)


def test_the_same_model_and_another_one_are_refused(
    index: Path, model: Path, newer: EmbeddingModel, rmac: Path
) -> None:
    with pytest.raises(ArtefactMismatchError, match="expected another model than that of the index, found the same"):
        migrate(index, load_model(model))

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(index, Hooked(newer, interrupt))
    with pytest.raises(ArtefactMismatchError, match=r"a migration is under way .*--cancel"):
        migrate(index, load_model(rmac))
    assert generations.drop(index, NEXT)
    assert not generations.drop(index, NEXT)
    migrate(index, load_model(rmac))


def test_one_old_generation_is_kept(index: Path, newer: EmbeddingModel, model: Path) -> None:
    migrate(index, newer)
    with pytest.raises(IndexFolderError, match=r"found that of an earlier migration; .*--drop-old"):
        migrate(index, load_model(model))
    assert generations.drop(index, PREVIOUS)
    migrate(index, load_model(model))
    assert Index.open(index).info()[PREVIOUS]["fingerprint"] == newer.fingerprint


def copied(folder: Index, tmp_path: Path) -> ImageCollection:
    """A copy of an index in Lance tables."""
    target = create_index(f"lance:{tmp_path}/shop", schema=folder.schema, fingerprint=folder.fingerprint)
    Copy(folder, target).run()
    return target


@pytest.mark.lance
def test_a_photo_that_is_written_while_an_address_is_migrated(
    index: Path, newer: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr("objemb.index.remote.generations.LOOK_SECONDS", 0.01)
    folder = Index.open(index)
    target = copied(folder, tmp_path)
    one = folder.get("0.png")
    assert one is not None
    put_header, stages = Lance.put_header, []

    def put(store: Lance, texts: dict[str, str | None]) -> None:
        put_header(store, texts)
        if texts.get("closing") and not stages:  # closed, and what was written before was looked at
            before, patience = store.version(int(texts["closing"])), time.monotonic() + 60
            stages.append(threading.Thread(target=write))
            stages[0].start()
            while store.version(int(texts["closing"])) == before and time.monotonic() < patience:
                time.sleep(0.01)
            stages[0].join(0.05)
            assert stages[0].is_alive()  # it waits

    errors: list[Exception] = []

    def write() -> None:
        try:
            with open_index(target.address).writer() as writer:
                writer.add(replace(one, image="late"), "s")  # type: ignore[type-var, arg-type]
        except ArtefactMismatchError as error:
            errors.append(error)

    monkeypatch.setattr(Lance, "put_header", put)
    skipped: list[SkippedImage] = []
    report = Migration(target, newer, on_skip=skipped.append, workers=1).run()
    stages[0].join(30)
    # it came before the version was read: the round was repeated, and the writer could go on
    assert errors == []
    assert [one.id for one in skipped] == ["late"]
    assert (report.described, report.left_out) == (6, 1)
    with pytest.raises(ArtefactMismatchError, match="migrated to another model meanwhile"), target.writer() as writer:
        writer.add(replace(one, image="later"), "s")  # type: ignore[type-var, arg-type]


@pytest.mark.lance
def test_writers_of_a_migration_that_died_while_it_published(
    index: Path, newer: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr("objemb.index.remote.generations.CLOSED_SECONDS", 0.05)
    folder = Index.open(index)
    target = copied(folder, tmp_path)
    target.generations.begin(folder.schema, newer.fingerprint, newer.about)
    Lance(parse_address(target.address)).put_header({"closing": "0"})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="repeat 'objemb migrate', or end it by --cancel"):
        target.delete(["0.png"])
    report = Migration(open_index(target.address), newer, workers=1).run()
    assert (report.described, len(open_index(target.address))) == (5, 5)
    assert open_index(target.address).delete(["1.png"]) == []


STEPS = ["_set_aside", "write_manifest", "_take_over", "after publication", "_remove"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_one_whole_generation(
    index: Path, newer: EmbeddingModel, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    before = Index.open(index).fingerprint
    with monkeypatch.context() as patch:
        if step == "after publication":
            take_over = generations._take_over
            patch.setattr(generations, "_take_over", lambda *a: (take_over(*a), crash()))
        else:
            patch.setattr(generations, step, lambda *a: crash())

        def crash() -> None:
            raise Crash

        with pytest.raises(Crash):
            migrate(index, newer)
    published = step in ("after publication", "_remove")
    assert Index.open(index).fingerprint == (newer.fingerprint if published else before)
    assert Index.open(index).verify() == []
    assert len(Index.open(index)) == 6
    facts = Index.open(index).info()
    assert (facts[PREVIOUS] is not None) == published
    if published:
        assert facts[NEXT] is None
        generations.tidy(index)
        assert not (index / NEXT).exists()
        assert facts[PREVIOUS]["fingerprint"] == before
    else:
        report, _ = migrate(index, newer)
        assert (report.kept, report.described) == (6, 0)
    assert Index.open(index).fingerprint == newer.fingerprint
    assert Index.open(index / PREVIOUS).fingerprint == before
    assert Index.open(index).verify() == []


def test_without_hard_links_files_are_copied(
    index: Path, newer: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    before = contents(index)
    monkeypatch.setattr(os, "link", refused)
    migrate(index, newer)
    assert Index.open(index).verify() == []
    expect_equal(contents(index / PREVIOUS), before)


@pytest.mark.parametrize("name", [NEXT, PREVIOUS])
def test_links_are_not_followed(index: Path, newer: EmbeddingModel, name: str, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "elsewhere")
    (index / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IndexFolderError, match=f"{name}: expected a folder, found a link"):
        migrate(index, newer)
    with pytest.raises(IndexFolderError, match=f"{name}: expected a folder, found a link"):
        generations.drop(index, name)
    assert len(Index.open(tmp_path / "elsewhere")) == 6
    assert Index.open(index).info()[name]["problem"]


def test_damage_of_another_generation_is_told(index: Path, newer: EmbeddingModel) -> None:
    migrate(index, newer)
    file = next(file for file in (index / PREVIOUS).iterdir() if file.suffix == ".vectors")
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    problems = Index.open(index).verify()
    assert len(problems) == 1
    assert problems[0].startswith(f"previous: {file.name}: expected SHA-256")
    (index / PREVIOUS / "manifest").write_bytes(b"nothing")
    assert "expected the header" in Index.open(index).info()[PREVIOUS]["problem"]
    assert generations.drop(index, PREVIOUS)


def test_two_migrations_do_not_run_at_once(index: Path, newer: EmbeddingModel) -> None:
    errors: list[str] = []

    def second(number: int) -> None:
        if number == 1:
            try:
                migrate(index, newer)
            except IndexLockedError as error:
                errors.append(str(error))

    migrate(index, Hooked(newer, second))
    assert len(errors) == 1
    assert "next" in errors[0]


def calibrated(index: Path) -> Calibration:
    """The index with a calibration that names its source."""
    made = Calibration(UpperTail(0.5, 0.5, 0.1, 0.1, (0.0, 0.5)), 100, 6, 6, 6, {"instance": "label", "queries": 100})
    Index.open(index).set_calibration(made)
    return made


def test_a_calibration_that_cannot_be_made_anew_is_dropped_with_a_note(index: Path, newer: EmbeddingModel) -> None:
    calibrated(index)
    notes: list[str] = []
    migrate(index, newer, on_note=notes.append)
    assert Index.open(index).calibration is None
    assert notes[0] == "calibrating the scores anew"
    assert "the scores of the new generation are not calibrated: " in notes[1]
    assert "expected at least" in notes[1]


def test_scores_are_calibrated_anew_from_the_same_source(
    index: Path, newer: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calibrated(index)
    asked: list[tuple[str, Calibration]] = []

    def again(target: Index, before: Calibration, model: EmbeddingModel) -> Calibration:
        asked.append((target.fingerprint, before))
        target.set_calibration(replace(made, queries=200))
        return made

    monkeypatch.setattr(migration, "calibrate_again", again)
    migrate(index, newer)
    assert asked == [(newer.fingerprint, made)]
    assert Index.open(index).calibration == replace(made, queries=200)
    assert Index.open(index / PREVIOUS).calibration == made
