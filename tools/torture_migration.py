"""Kill migrations of an index at random moments, while it is searched and photos are added.

    python tools/torture_index.py --kills 0 --corruptions 0 --migrations 100

An index of small photos is migrated from one model to another and back, again and again. Each migration is killed at a
random moment, half of them while they publish, or ends before that, while one process searches and another one adds and
deletes photos. After every kill the index must open, verify, be of one of the two models, and hold every photo that was
added, once, with the vectors of that model. Every search must have an answer with every photo at most once and the
wanted one first.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from objemb.checks import ArtefactMismatchError, IndexLockedError
from objemb.config import load_config
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.index.generations import NEXT, PREVIOUS
from objemb.index.storage.generations import drop, switch
from objemb.index.store import Index
from objemb.models import build_model, load_model, save_model
from objemb.models.base import EmbeddingModel
from objemb.models.row_schema import row_schema
from objemb.search import migration
from objemb.search.indexing import Job
from objemb.search.migration import Migration
from objemb.structures.described import expect_vectors

#: Photos at the start; each has a given box.
PHOTOS = 16
#: A photo is added about every so many seconds.
ADDED_EVERY = 0.5
#: Seconds between two searches.
SEARCHED_EVERY = 0.02
#: Photos that were added and are not yet deleted again.
MAX_ADDED = 8
SIDE = 48
BOX = (8, 8, 32, 32)
NETWORK = ("backbone.arch=squeezenet1_1", "backbone.weights=random", "extractor.size=33")
#: A migration that publishes is killed within this many seconds.
PUBLISHING = 0.08
#: Most seconds that a process may need to start or to end.
PATIENCE = 120.0


def draw(file: Path, number: int) -> None:
    """A photo whose colours are a function of its number."""
    rng = np.random.default_rng(number)
    patches = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    temporary = file.with_suffix(".part")
    Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(temporary, "PNG")
    temporary.rename(file)


def prepare(folder: Path) -> None:
    """Photos, their boxes, two models and an index of the first one."""
    (folder / "photos").mkdir(parents=True)
    images = []
    for number in range(PHOTOS):
        draw(folder / "photos" / f"{number}.png", number)
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    x1, y1, x2, y2 = BOX
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]} for n in range(PHOTOS)]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "boxes.json").write_text(json.dumps(coco))
    for name, pooling in (("one", "mean"), ("other", "max")):
        torch.manual_seed(0)
        settings = load_config("hard_attention_crop", [*NETWORK, f"pooling.name={pooling}"])
        save_model(build_model(settings), folder / name)
    model = load_model(folder / "one")
    index = Index.create(folder / "index", schema=row_schema(model), fingerprint=model.fingerprint, model=model.about)
    given = StoredBoxes(folder / "boxes.json")
    Job(index, model, [folder / "photos"], boxes=given, boxes_file=folder / "boxes.json").run()


def models_of(folder: Path) -> dict[str, EmbeddingModel]:
    """Both models, by fingerprint."""
    loaded = [load_model(folder / name) for name in ("one", "other")]
    return {model.fingerprint: model for model in loaded}


def work(folder: Path, seed: int, steps: Connection) -> None:
    """Migrate the index to the model that it is not of. A message is sent before it starts, and before it publishes."""

    def announced(*arguments: Any, **more: Any) -> bool:
        steps.send(None)
        return switch(*arguments, **more)

    torch.set_num_threads(1)
    models = models_of(folder)
    index = Index.open(folder / "index")
    (target,) = (model for fingerprint, model in models.items() if fingerprint != index.fingerprint)
    keep = random.Random(seed).random() < 0.5
    vars(migration)["switch"] = announced
    steps.send(None)
    while True:
        try:
            if index.info()[PREVIOUS] is not None:
                drop(index.path, PREVIOUS)
            Migration(index, target, batch_size=2, workers=1, keep=keep).run()
            return
        except IndexLockedError:  # photos are being added; to clean up behind the last kill takes the lock
            time.sleep(0.01)


def stopped(stop: Any) -> bool:
    """Whether a process is to end: it was told to, or the one that started it was killed and can tell nothing."""
    parent = multiprocessing.parent_process()
    return stop.is_set() or (parent is not None and not parent.is_alive())


def add(folder: Path, stop: Any, journal: Path) -> None:
    """Add photos to the index, and delete those that were added first, as long as nobody stops it.

    The journal has a line ``+ name`` for a photo that is published, and ``- name`` before it is deleted.
    """
    torch.set_num_threads(1)
    models = models_of(folder)

    def log(line: str) -> None:
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())

    number = PHOTOS
    while not stopped(stop):
        time.sleep(ADDED_EVERY)
        draw(folder / "photos" / f"{number}.png", number)
        index = Index.open(folder / "index")
        try:
            if (oldest := number - MAX_ADDED) >= PHOTOS:
                log(f"- {oldest}.png")
                index.delete([f"{oldest}.png"])
            Job(index, models[index.fingerprint], [folder / "photos" / f"{number}.png"], workers=1).run()
        except (IndexLockedError, ArtefactMismatchError):  # it is being published, or was: once more
            continue
        log(f"+ {number}.png")
        number += 1


def added(journal: Path) -> set[str]:
    """The names of the photos that are published."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    last = {name: sign for sign, _, name in (line.partition(" ") for line in lines)}
    return {name for name, sign in last.items() if sign == "+"}


def search(folder: Path, stop: Any, result: Connection) -> None:
    """Search as long as nobody stops it, and report the number of answers, and what was wrong with them."""
    torch.set_num_threads(1)
    models = models_of(folder)
    queries = {
        fingerprint: [model.query(folder / "photos" / f"{n}.png", [BOX]) for n in range(PHOTOS)]
        for fingerprint, model in models.items()
    }
    answers, problems, answered_by = 0, list[str](), set[str]()
    rng = random.Random(0)
    while not stopped(stop):
        time.sleep(SEARCHED_EVERY)
        number = rng.randrange(PHOTOS)
        try:
            index = Index.open(folder / "index")
            found = index.search(queries[index.fingerprint][number], 1000)
            images = [hit.image for hit in found]
            answers += 1
            answered_by.add(index.fingerprint)
            if len(set(images)) < len(images) or not {f"{n}.png" for n in range(PHOTOS)} <= set(images):
                problems.append(f"search for {number}: expected every photo once, found {sorted(images)}")
            if images[0] != f"{number}.png" or found[0].score < 0.999:
                problems.append(f"search for {number}: found {images[0]} with the score {found[0].score}")
        except Exception as error:
            problems.append(f"search for {number}: {type(error).__name__}: {error}")
    result.send((answers, len(answered_by), problems))


def inspect(folder: Path, models: dict[str, EmbeddingModel], journal: Path) -> list[str]:
    """Problems of the index: every added photo has to be there once, with the vectors of the index's model."""
    published = added(journal)  # read before the index, which may have more
    index = Index.open(folder / "index")
    problems = Index.open(folder / "index").verify()
    if index.fingerprint not in models:
        return [*problems, f"expected the fingerprint of one of the models, found {index.fingerprint}"]
    images = [one.id for one in index.images()]
    # a photo may be deleted between the first look at the journal and that at the index
    wanted = {*(f"{n}.png" for n in range(PHOTOS)), *(published & added(journal))}
    missing = wanted - set(images)
    if len(set(images)) < len(images) or missing:
        problems.append(f"expected every photo once, found {len(images)} images without {sorted(missing)}")
    model = models[index.fingerprint]
    for image in (images[0], images[len(images) // 2], images[-1]):
        stored = index.get(image)
        if stored is None:
            problems.append(f"{image}: expected its rows, found none")
            continue
        # one box after another, as there is no order in time among the models
        expected = model.query(folder / "photos" / image, stored.regions.boxes)
        found, wanted_rows = expect_vectors("torture", stored).vectors, expect_vectors("torture", expected).vectors
        if not np.allclose(found, wanted_rows, atol=1e-4):
            problems.append(f"{image}: expected the vectors of the model of the index, found others")
    return problems


def kill_once(folder: Path, seed: int, most: float, result: dict[str, Any]) -> float:
    """Start a migration and kill it: half of them within ``most`` seconds, half while they publish. Returns the seconds
    from the start to the end."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(folder, seed, sender), daemon=True)
    child.start()
    sender.close()
    publishing, rng = seed % 2 == 1, random.Random(seed)
    _await(receiver)
    started = time.monotonic()
    if publishing:
        _await(receiver)
    child.join(rng.uniform(0, PUBLISHING if publishing else most))
    seconds = time.monotonic() - started
    child.kill()
    child.join()
    receiver.close()
    result["ended before the kill"] += child.exitcode == 0
    if child.exitcode not in (0, -9):
        result["failures"].append(f"migration {seed}: it ended with exit code {child.exitcode}")
    return seconds


def _await(steps: Connection) -> None:
    """Wait for the next step of a migration, or for its end."""
    if steps.poll(PATIENCE):
        with suppress(EOFError):
            steps.recv()


def torture_by_migrating(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill ``kills`` migrations of one index, one after another, while it is searched and photos are added."""
    multiprocessing.set_forkserver_preload([__name__])  # with PyTorch, which every process would import otherwise
    context = multiprocessing.get_context("forkserver")
    result: dict[str, Any] = {"kills": kills, "ended before the kill": 0, "left unfinished": 0, "failures": []}
    prepare(folder)
    models, journal, stop = models_of(folder), folder / "journal", context.Event()
    receiver, sender = context.Pipe(duplex=False)
    others = [
        context.Process(target=add, args=(folder, stop, journal), daemon=True),
        context.Process(target=search, args=(folder, stop, sender), daemon=True),
    ]
    for process in others:
        process.start()
    # the first one ends, and tells how long that takes beside the others
    most = kill_once(folder, 2 * seed, PATIENCE, result)
    result["ended before the kill"] = 0
    for number in range(1, kills + 1):
        kill_once(folder, 2 * seed + number, most, result)
        result["left unfinished"] += (folder / "index" / NEXT).exists()
        result["failures"] += [f"migration {2 * seed + number}: {p}" for p in inspect(folder, models, journal)]
    stop.set()
    answers, generations, problems = receiver.recv() if receiver.poll(PATIENCE) else (0, 0, ["no answers at all"])
    for process in others:
        process.join(PATIENCE)
    result["failures"] += [*problems, *inspect(folder, models, journal)]
    return {
        **result,
        "answers": answers,
        "models that answered": generations,
        "photos added and deleted": journal.read_text(encoding="utf-8").count("\n"),
        "publications": Index.open(folder / "index").state.generation,
    }
