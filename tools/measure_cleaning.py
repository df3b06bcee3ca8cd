"""Measure `objemb prepare-data clean` on classes whose truth is known, made of any photos.

python tools/measure_cleaning.py --photos photos --classes 10 --seed 1 -o measured
python tools/measure_cleaning.py --photos photos --classes 50 --per-class 100 --workers 2 -o measured
python tools/measure_cleaning.py --photos photos --crops products.json --noise 4 --seed 0 -o measured

A class has a façade (a photo) under random perspective, light and size on other photos in half of its photos, another
façade (a second view) in a fifth, and unrelated photos in the rest. Printed are precision and recall of the kept
photos, the IoU of their boxes with the true ones before and after propagation, seconds (of the clock, and of all
processors together, which other programs disturb less) and memory. The true boxes are in ``classes/truth.json``, for
``tools/measure_proposals.py``.

With ``--crops``, an evaluation set of pictures of single products, the classes are its instances, each
with ``--noise`` of the photos, and the true box of a picture is all of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from objemb.cli.output import note
from objemb.coco.files import read_json
from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.datasets.cleaning import CleaningSettings, clean
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.datasets.seeds import generator
from objemb.images import ImageRef, find_images, read_photo
from objemb.ops.boxes import paired_iou
from objemb.types import Float64Array

#: Width and height of a made photo.
SIZE = (400, 300)
FACADE, SECOND, NOISE = "facade", "second", "noise"
#: Shares of a class: photos of the façade, of the second view; the rest is noise.
SHARES = (0.5, 0.2)


@dataclass(frozen=True)
class Truth:
    """What a made photo shows, and where: a box xyxy in pixels, the whole photo for noise."""

    kind: str
    box: tuple[float, float, float, float]


def make_class(
    folder: Path, photos: Sequence[Path], count: int, rng: np.random.Generator, size: tuple[int, int] = SIZE
) -> dict[str, Truth]:
    """Write the photos of a class, of ``size`` (width, height); returns the truth by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    order = rng.permutation(len(photos))
    facades = [_picture(photos[n]) for n in order[:2]]
    others = order[2:]
    truth = {}
    for number in range(count):
        place = number / count
        kind = FACADE if place < SHARES[0] else SECOND if place < sum(SHARES) else NOISE
        background = _picture(photos[others[number % len(others)]]).resize(size)
        box = (0.0, 0.0, float(size[0]), float(size[1]))
        if kind != NOISE:
            background, box = _paste(facades[kind == SECOND], background, rng)
        name = f"{number:04d}.jpg"
        background.save(folder / name, quality=88)
        truth[name] = Truth(kind, box)
    return truth


def make_classes(folder: Path, photos: Sequence[Path], classes: int, count: int, seed: int) -> dict[str, Truth]:
    """Write classes of ``count`` photos each, and their true boxes for other programs; returns the truth by class and
    file name."""
    truth: dict[str, Truth] = {}
    for number in range(classes):
        made = make_class(folder / f"{number:03d}", photos, count, generator("landmarks", seed, number))
        truth |= {f"{number:03d}/{name}": t for name, t in made.items()}
    shown = [(name, t.box) for name, t in truth.items() if t.kind != NOISE]
    images = [AnnotatedImage(name, SIZE[::-1], [AnnotatedObject(box, "object")]) for name, box in shown]
    write_instances(folder / "truth.json", images, ["object"])
    return truth


def gather_classes(
    folder: Path, crops: EvaluationSet, photos: Sequence[Path], noise: int, seed: int
) -> dict[str, Truth]:
    """Copy the pictures of each instance of a set, and ``noise`` photos beside them; returns the truth by class and
    file name."""
    pictures: dict[str, list[Path]] = {}
    for entry in (*crops.images, *crops.queries):
        for instance in entry.instances:
            pictures.setdefault(instance, []).append(crops.photo(entry.file))
    truth: dict[str, Truth] = {}
    for number, (instance, own) in enumerate(sorted(pictures.items())):
        others = [photos[n] for n in generator("crops", seed, number).permutation(len(photos))[:noise]]
        (folder / instance).mkdir(parents=True, exist_ok=True)
        for path in [*own, *others]:
            shutil.copyfile(path, folder / instance / path.name)
            height, width = read_photo(path).size
            truth[f"{instance}/{path.name}"] = Truth(NOISE if path in others else FACADE, (0.0, 0.0, width, height))
    return truth


def _picture(path: Path) -> Image.Image:
    return Image.fromarray(read_photo(path).pixels.transpose(1, 2, 0))


def _paste(
    facade: Image.Image, background: Image.Image, rng: np.random.Generator
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """The façade in random perspective, light and focus on a background, and its box."""
    width, height = facade.size
    size = background.size
    scale = rng.uniform(0.3, 0.9) * min(size[0] / width, size[1] / height)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    angle = np.deg2rad(rng.uniform(-25, 25))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    quad = (corners - corners.mean(axis=0)) @ turn.T * scale
    quad = quad * (1 + rng.uniform(-0.25, 0.25, quad.shape))
    low, high = quad.min(axis=0), quad.max(axis=0)
    quad += rng.uniform(np.minimum(-low, size - high), np.maximum(-low, size - high))
    lit = np.asarray(facade, np.float32) * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25)
    source = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
    back = tuple(_perspective(quad, corners).tolist())
    warped = source.transform(size, Image.Transform.PERSPECTIVE, back, Image.Resampling.BICUBIC)
    mask = Image.new("L", facade.size, 255).transform(size, Image.Transform.PERSPECTIVE, back)
    background.paste(warped, (0, 0), mask)
    x1, y1 = np.clip(quad.min(axis=0), 0, size).tolist()
    x2, y2 = np.clip(quad.max(axis=0), 0, size).tolist()
    return background, (x1, y1, x2, y2)


def _perspective(here: Float64Array, there: Float64Array) -> Float64Array:
    """The eight numbers of the perspective that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(here.tolist(), there.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values))


def measure(folder: Path, truth: dict[str, Truth], settings: CleaningSettings, workers: int) -> dict[str, object]:
    """Clean the classes and compare; the store of an earlier call makes it faster, not different."""
    began, worked = time.monotonic(), _processor_seconds()
    report = clean([folder / "classes"], folder / "cleaned", settings, workers=workers)
    seconds = time.monotonic() - began
    with (folder / "cleaned" / "clean.csv").open(newline="") as file:
        kept = ["/".join(Path(row["path"]).parts[-2:]) for row in csv.DictReader(file)]
    wanted = {name for name, t in truth.items() if t.kind == FACADE or (t.kind == SECOND and settings.smallest_view)}
    right = sum(name in wanted for name in kept)
    coco = read_json(folder / "cleaned" / "boxes.json")
    names = {image["id"]: "/".join(Path(image["file_name"]).parts[-2:]) for image in coco["images"]}
    boxes = {names[a["image_id"]]: a for a in coco["annotations"]}
    shown = [name for name in kept if name in wanted]
    found = torch.tensor([boxes[name]["bbox"] for name in shown]).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    start = torch.tensor([boxes[name]["start"] for name in shown]).reshape(-1, 4)
    true = torch.tensor([truth[name].box for name in shown]).reshape(-1, 4)
    figures = {
        "kept": len(kept),
        "precision": right / max(1, len(kept)),
        "recall": right / max(1, len(wanted)),
        **_overlaps("start", paired_iou(start, true)),
        **_overlaps("refined", paired_iou(found, true)),
        "seconds": round(seconds, 1),
        "processor_seconds": round(_processor_seconds() - worked, 1),
        "pairs": report["pairs"],
        "mb": _megabytes(resource.RUSAGE_SELF),
        "mb_of_a_process": _megabytes(resource.RUSAGE_CHILDREN),
    }
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}


def _overlaps(name: str, ious: torch.Tensor) -> dict[str, float]:
    share = float((ious >= 0.5).float().mean()) if len(ious) else 0.0
    return {f"iou_{name}": float(ious.mean()) if len(ious) else 0.0, f"iou_{name}_above_half": share}


def _processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _megabytes(who: int) -> int:
    return resource.getrusage(who).ru_maxrss // 1024


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Make the classes, clean them and print the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--photos", required=True, type=Path, help="any photos: façades, backgrounds and noise")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--crops", type=Path, help="JSON of pictures by instance, instead of made classes")
    parser.add_argument("--noise", type=int, default=4, help="photos in a class of crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--least", type=int, nargs="+", default=[CleaningSettings.least])
    parser.add_argument("--tolerance", type=float, nargs="+", default=[CleaningSettings.tolerance])
    parser.add_argument("--smallest-view", type=int)
    args = parser.parse_args(argv)
    photos = [ref.path for ref in find_images([args.photos]) if isinstance(ref, ImageRef)]
    classes = args.output / "classes"
    if args.crops is None:
        truth = make_classes(classes, photos, args.classes, args.per_class, args.seed)
    else:
        truth = gather_classes(classes, read_evaluation_set(args.crops), photos, args.noise, args.seed)
    results = []
    for least in args.least:
        for tolerance in args.tolerance:
            settings = CleaningSettings(least=least, tolerance=tolerance, smallest_view=args.smallest_view)
            figures = measure(args.output, truth, settings, args.workers)
            results.append({"least": least, "tolerance": tolerance, **figures})
            note(json.dumps(results[-1]))
    report = {"command": sys.argv[1:] if argv is None else list(argv), "photos": len(truth), "results": results}
    print(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
