"""Speed and memory of a whole indexing run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.config import load_config
from objemb.images.decode import read_photo
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.models import Model, build_model
from objemb.search.indexing import Job
from objemb.structures import Photo

FULL = {"arch": "resnet50", "photos": 32, "side": 640, "rounds": 3, "few": 1000, "many": 20_000, "memory_side": 128}
SMALL = {"arch": "squeezenet1_1", "photos": 5, "side": 64, "rounds": 1, "few": 4, "many": 12, "memory_side": 48}
BATCH_SIZE, WORKERS = 8, 2
#: Number of distinct pictures; further photos are links to these under other names.
PICTURES = 64
#: The command line of objemb, as the installed program runs it.
PROGRAM = "from objemb.cli.main import main; main()"
#: Runs a command and prints the peak memory of its processes. This is a separate, small process, because on Linux the
#: peak of a program is at least that of the process that started it.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def run(sizes: Mapping[str, Any], seed: int) -> Iterator[Ratio]:
    """Images per second over those of the describer alone, and peak memory of many images over that of few."""
    with tempfile.TemporaryDirectory() as folder:
        yield _speed(Path(folder), sizes, seed)
        yield _memory(Path(folder), sizes, seed)


def _speed(folder: Path, sizes: Mapping[str, Any], seed: int) -> Ratio:
    """A run from files to a published index, and the describer alone on photos in memory."""
    photos = folder / "photos"
    write_photos(photos, sizes["photos"], sizes["side"], seed)
    settings = load_config(
        "gem", ["backbone.weights=random", f"backbone.arch={sizes['arch']}", f"extractor.size={sizes['side']}"]
    )
    model = build_model(settings)
    decoded = [read_photo(p, side=model.decode_side) for p in sorted(photos.iterdir())]
    numbers = iter(range(1000))
    times = alternate(
        {
            "describer": lambda: _describe(model, decoded),
            "indexing": lambda: _index(model, photos, folder / f"index{next(numbers)}"),
        },
        sizes["rounds"],
    )
    name = f"indexing over describer alone, images per second, gem {sizes['arch']} at {sizes['side']} pixels"
    return ratio(name, times["describer"], times["indexing"], ">= 0.85", photos=sizes["photos"])


@torch.inference_mode()
def _describe(model: Model, photos: list[Photo]) -> None:
    for start in range(0, len(photos), BATCH_SIZE):
        model.describer.describe(photos[start : start + BATCH_SIZE])


def _index(model: Model, photos: Path, folder: Path) -> None:
    index = Index.create(folder, schema=UnitVectors(model.dim), fingerprint=model.fingerprint)
    report = Job(index, model, [photos], batch_size=BATCH_SIZE, workers=WORKERS).run()
    if report.skipped or not report.added:
        raise RuntimeError(f"indexing {photos}: expected all photos to be added, found {report}")


def _memory(folder: Path, sizes: Mapping[str, Any], seed: int) -> Ratio:
    """Peak memory of indexing many photos over that of indexing few."""
    model = folder / "model"
    settings = load_config(
        "mac", ["backbone.arch=squeezenet1_1", "backbone.weights=random", f"extractor.size={sizes['memory_side']}"]
    )
    build_model(settings).save(model)
    peaks = {}
    for count in (sizes["few"], sizes["many"]):
        photos = folder / f"photos{count}"
        write_photos(photos, count, sizes["memory_side"], seed)
        peaks[count] = _peak(photos, model, folder / f"index{count}")
    few, many = peaks.values()
    name = f"peak memory of indexing {sizes['many']} photos over {sizes['few']}"
    return Ratio(name, many / few, "<= 1.1", facts={"mebibytes": peaks})


def _peak(photos: Path, model: Path, index: Path) -> float:
    """Peak resident memory in MiB of `objemb index`, or of one of its workers if that is larger."""
    arguments = ["index", str(photos), "--model", str(model), "-o", str(index), "--json", "--workers", str(WORKERS)]
    command = [sys.executable, "-c", MEASURE, sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"objemb index exited with code {done.returncode}: {done.stderr[-2000:]}")
    return int(done.stdout) / 1024


def write_photos(folder: Path, count: int, side: int, seed: int) -> None:
    """Write JPEGs of smooth noise, ``side`` pixels wide and three quarters of that high."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number >= PICTURES:
            os.link(folder / f"{number % PICTURES:06}.jpg", path)
            continue
        noise = random.integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(path, quality=90)
