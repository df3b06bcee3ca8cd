"""Measure the steps of deep image retrieval on made landmarks: classification, ranking, grid and proposals.

python -m tools.measure_landmarks data --photos photos -o landmarks
python -m tools.measure_landmarks choose -o landmarks --weights lite0.safetensors --steps rank --vary run.lr=1e-3 ...
python -m tools.measure_landmarks train -o landmarks --weights lite0.safetensors --seed 0
python -m tools.measure_landmarks table -o landmarks --weights lite0.safetensors --seeds 0 1 2

``data`` makes classes as ``tools/measure_cleaning.py`` does, for training, validation and testing from different
photos, and cleans those for training. ``choose`` trains a step with each of some settings (several at once in quotes:
``"run.lr=1e-3 run.steps=80"``) and keeps those that are best on the validation instances in ``choices.json``, for all
seeds; the test instances are not looked at. ``train`` runs ``objemb train`` with the files of ``configs/train/``; each
step that has been done is skipped, and one that was interrupted continues. ``table`` prints mAP and P@1 of the test
instances after each step, mean and standard deviation over the seeds, and how each compares with the step that the
paper puts before it. Every photo of a façade is a query for the others of its façade; photos of noise are in the
ranking as well.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from objemb.cli.output import note
from objemb.cli.programs import train as training
from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.config import load_training_config
from objemb.datasets.cleaning import CleaningSettings, clean
from objemb.datasets.seeds import generator
from objemb.describers.capabilities import PhotoEmbedder
from objemb.disk import write_whole
from objemb.evaluation.instances import instance_retrieval
from objemb.images import ImageRef, find_images
from objemb.models import build_model, load_model
from objemb.models.fitting import fit_parts
from objemb.models.model import Model
from objemb.ops.batches import batched
from objemb.training.data.folder import FolderExamples
from objemb.training.tasks.rank import take_fitted_parts
from objemb.types import Settings
from tools.measure_cleaning import NOISE, Truth, make_class

#: Classes and photos of a class of each split, and its share of the photos that they are made of.
SPLITS = {"train": (24, 40, 0.6), "val": (8, 20, 0.15), "test": (20, 20, 0.25)}
#: Width and height of a made photo, and the longest side at which networks take them.
SIZE, SIDE = (384, 256), 128
#: Photos that are described at a time.
BATCH = 16
#: The network.
ARCH = "tf_efficientnet_lite0"
#: Settings that all rankings share, and those of a kind of loss.
RANKING = "pool=400 refresh=15 chunk=null describer.dim=256 describer.extractor.size={side} data.side={side}"
TRIPLETS = "run.steps=30 run.batch=8 run.lr=0.001 run.warmup=5 negatives=3"
PRECISION = "run.steps=30 run.batch=10 run.lr=1e-4 run.warmup=5 ranking_loss.bins=10"
CLASSIFICATION = "run.steps=40 run.batch=32 crops=32 run.lr=0.01 run.warmup=5"
#: Settings of a ranking that goes on from another one.
LONGER = PRECISION.replace("run.steps=30", "run.steps=15")
#: Settings of the detector whose proposals are regions, in pixels of the network's input.
DETECTOR = {
    "name": "faster_rcnn",
    "pyramid_strides": [8, 16, 32],
    "channels": 64,
    "anchor_sizes": [[16, 22], [28, 36], [46, 60], [76, 96]],
    "box_width": 16,
    "proposals": 256,
    "min_size": 128,
    "max_size": SIDE,
}
#: Row of the table of a network without training, and the file of the settings that were chosen.
UNTRAINED, CHOICES = "untrained", "choices.json"
#: The lists of the training photos.
ALL, CLEAN = "data.sources={data}/train/all.csv", "data.sources={data}/train/cleaned/clean.csv"


@dataclass(frozen=True)
class Step:
    """A step of training, or, without ``trained``, a network that is put together from others.

    Attributes:
        config: Of ``configs/train``.
        network: The step whose network it starts from; None for published weights.
        settings: Overrides beside those of the network, with ``{data}`` for the folder of the sets.
        beside: The step with which its figures are compared.
        projection: The step whose projection it starts with; None for PCA whitening.
        alike: The step whose chosen settings it has; None for its own.
        trained: Whether anything is trained.
    """

    config: str
    network: str | None
    settings: str
    beside: str = UNTRAINED
    projection: str | None = None
    alike: str | None = None
    trained: bool = True


STEPS = {
    "classify_all": Step("classify_landmarks", None, f"{ALL} {CLASSIFICATION}"),
    "classify_longer": Step(
        "classify_landmarks", "classify_all", f"{ALL} {CLASSIFICATION}", "classify_all", alike="classify_clean"
    ),
    "classify_clean": Step("classify_landmarks_clean", "classify_all", f"{CLEAN} {CLASSIFICATION}", "classify_longer"),
    "rank_all": Step("rank_landmarks", "classify_clean", f"{ALL} {TRIPLETS}", "classify_clean", alike="rank"),
    "rank": Step("rank_landmarks", "classify_clean", f"{CLEAN} {TRIPLETS}", "rank_all"),
    "rank_ap": Step("rank_landmarks_ap", "classify_clean", f"{CLEAN} {PRECISION}", "rank"),
    "detect": Step(
        "detect_landmarks",
        "rank_ap",
        "run.steps=400 run.batch=8 run.lr=1e-3 run.optimizer=adamw run.warmup=20 "
        "data.file={data}/train/cleaned/boxes.json data.side={side} "
        "validation.file={data}/val/boxes.json validation.side={side} describer.extractor.size={side}",
    ),
    "detector": Step(
        "detect_landmarks",
        "classify_clean",
        "run.steps=400 run.batch=8 run.lr=1e-3 run.optimizer=adamw run.warmup=20 only_proposals=false frozen=trunk8 "
        "describer.backbone.detector.box_width=128 describer.backbone.detector.box_batch_per_image=64 "
        "describer.backbone.detector.sampling_ratio=1 data.file={data}/train/cleaned/boxes.json data.side={side} "
        "validation.file={data}/val/boxes.json validation.side={side} describer.extractor.size={side}",
    ),
    "proposals": Step("rank_landmarks_proposals", "detect", CLEAN, "rank_ap", projection="rank_ap", trained=False),
    "rank_ap_longer": Step("rank_landmarks_ap", "rank_ap", f"{CLEAN} {LONGER}", "rank_ap", projection="rank_ap"),
    "rank_ap_proposals": Step(
        "rank_landmarks_proposals",
        "detect",
        f"{CLEAN} run.optimizer=adamw run.weight_decay=1e-6 positives=3 negatives=0 "
        f'ranking_loss={{{{"name":"average_precision"}}}} {LONGER}',
        "rank_ap_longer",
        projection="rank_ap",
    ),
}


def make_sets(photos: Sequence[Path], folder: Path, seed: int) -> None:
    """Write the classes of all splits, their lists and true boxes, and clean those for training."""
    order = generator("splits of landmarks", seed).permutation(len(photos)).tolist()
    begin = 0
    for split, (classes, count, share) in SPLITS.items():
        own = [photos[n] for n in order[begin : begin + round(share * len(photos))]]
        begin += len(own)
        truth: dict[str, Truth] = {}
        for number in range(classes):
            rng = generator(f"landmarks {split}", seed, number)
            made = make_class(folder / split / "classes" / f"{number:03d}", own, count, rng, SIZE)
            truth |= {f"{number:03d}/{name}": of_photo for name, of_photo in made.items()}
        write_split(folder / split, truth)
    clean([folder / "train" / "classes"], folder / "train" / "cleaned", CleaningSettings())


def write_split(folder: Path, truth: dict[str, Truth]) -> None:
    """Write ``all.csv`` with the class of each photo, ``true.csv`` with what it shows (a photo of noise is an instance
    of its own) and ``boxes.json`` with the true boxes."""
    lists: dict[str, list[tuple[str, str]]] = {"all.csv": [], "true.csv": []}
    for name, of_photo in truth.items():
        path, cls = str((folder / "classes" / name).absolute()), name.partition("/")[0]
        lists["all.csv"].append((path, cls))
        lists["true.csv"].append((path, name if of_photo.kind == NOISE else f"{cls} {of_photo.kind}"))
    for file, rows in lists.items():
        with (folder / file).open("w", newline="") as opened:
            csv.writer(opened).writerows([("path", "instance"), *rows])
    shown = [(name, t) for name, t in truth.items() if t.kind != NOISE]
    images = [AnnotatedImage(f"classes/{name}", SIZE[::-1], [AnnotatedObject(t.box, "object")]) for name, t in shown]
    write_instances(folder / "boxes.json", images, ["object"])


def train(name: str, folder: Path, weights: Path, seed: int, varied: Sequence[str] | None = None) -> None:
    """Run a step for a seed, or continue it, with the chosen settings or others, in a folder that names them."""
    if STEPS[name].trained:
        config, *settings = command(name, folder, weights, seed, varied)
        training.main([config, "-o", str(run_folder(folder, name, seed, varied)), *settings, "--quiet"])


def choose(name: str, folder: Path, weights: Path, seed: int, alternatives: Sequence[Sequence[str]]) -> None:
    """Train a step with each of some settings, and keep those with the best figure on validation items: mAP, the recall
    of 64 proposals at an IoU of 0.7, or the average precision of a detector. Figures of an earlier call stay and
    compete."""
    choices = read_choices(folder)
    tried = choices.get(name, {}).get("tried", {})
    for varied in alternatives:
        train(name, folder, weights, seed, varied)
        figures = figures_of(name, folder, weights, seed, "val", varied)
        tried[" ".join(varied)] = next(figures[key] for key in ("mAP", "recall@64", "AP") if key in figures)
        note(f"{name} {' '.join(varied)}: {figures}")
    choices[name] = {"settings": max(tried, key=tried.__getitem__), "tried": tried, "seed": seed}
    write_whole(folder / CHOICES, json.dumps(choices, indent=1) + "\n")


def read_choices(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings that were chosen, by step; none before."""
    file = folder / CHOICES
    return json.loads(file.read_text()) if file.is_file() else {}


def chosen(folder: Path, name: str) -> list[str]:
    """The chosen settings of a step."""
    own = (name in STEPS and STEPS[name].alike) or name
    return str(read_choices(folder).get(own, {}).get("settings", "")).split()


def is_detector(name: str) -> bool:
    """Whether a step trains proposals, and has no vectors to measure."""
    return name in STEPS and STEPS[name].config.startswith("detect")


def command(
    name: str, folder: Path, weights: Path, seed: int, varied: Sequence[str] | None = None, start: Path | None = None
) -> list[str]:
    """The config of a step and the settings that differ from it; the chosen ones, or others (``varied``). ``start`` is
    another network to start from."""
    step = STEPS[name]
    data = folder.absolute()
    if start is None:
        start = weights if step.network is None else run_folder(folder, step.network, seed) / "model"
    settings = [f"run.seed={seed}", "run.workers=0", "run.validate_every=0", "run.checkpoint_every=20"]
    settings.append(f"describer.backbone={json.dumps(network(step.config, start))}")
    if not is_detector(name):
        settings.append(f"validation.sources={data}/val/true.csv")
    if step.config.startswith("classify"):
        settings += [f"describer.extractor.size={SIDE}", f"data.side={SIDE}", f"validation.side={SIDE}"]
    elif step.config.startswith("rank"):
        settings += [f"validation.side={SIDE}", *RANKING.format(side=SIDE).split()]
    if step.projection is not None:
        settings.append(f"start={run_folder(folder, step.projection, seed) / 'model'}")
    settings += step.settings.format(data=data, side=SIDE).split()
    return [step.config, *settings, *(chosen(folder, name) if varied is None else varied)]


def network(config: str, start: Path) -> Settings:
    """The settings of the trunk of a step, with that of its proposals around it where it has some."""
    trunk = {"name": "timm_net", "arch": ARCH, "weights": str(start)}
    if config.startswith("detect"):
        return {"name": "detector_trunk", "level": "trunk32", "detector": {**DETECTOR, "backbone": trunk}}
    if config.endswith("proposals"):
        detector = {**DETECTOR, "backbone": {**trunk, "weights": None}, "weights": str(start)}
        return {"name": "detector_trunk", "level": "trunk32", "detector": detector}
    return trunk


def run_folder(folder: Path, name: str, seed: int, varied: Sequence[str] | None = None) -> Path:
    """The folder of a run with the chosen settings or others."""
    return folder / "runs" / f"seed{seed}" / "@".join([name, *(chosen(folder, name) if varied is None else varied)])


def describer(name: str, folder: Path, weights: Path, seed: int, varied: Sequence[str] | None = None) -> PhotoEmbedder:
    """The describer after a step: that of a ranking as it was trained; networks of a classification with the grid and a
    projection by PCA of the clean training photos."""
    ranked = name in STEPS and STEPS[name].config.startswith("rank")
    if ranked and STEPS[name].trained:
        return embedder(load_model(run_folder(folder, name, seed, varied) / "model"))
    if ranked:
        config, *settings = command(name, folder, weights, seed, varied)
    else:
        start = weights if name == UNTRAINED else run_folder(folder, name, seed, varied) / "model"
        config, *settings = command("rank", folder, weights, seed, [], start)
    task = load_training_config(config, settings)["task"]
    model = build_model({"describer": task["describer"], "aggregator": {"name": "sum"}})
    if task["start"] is not None:
        take_fitted_parts(model.vector_describer("model"), task["start"])
    return embedder(fit_parts(model, [str(folder / "train" / "cleaned" / "clean.csv")], workers=1))


def embedder(model: Model) -> PhotoEmbedder:
    """The describer of a model, which has to give photos a vector each."""
    if not isinstance(model.describer, PhotoEmbedder):
        raise TypeError(f"describer: expected a rmac_network, found {type(model.describer).__name__}")
    return model.describer


@torch.no_grad()
def measure(of: PhotoEmbedder, examples: FolderExamples) -> dict[str, float]:
    """``mAP``, ``P@1`` and ``queries`` of a describer with one vector for each photo."""
    vectors = [of.embed_photos([examples[n].photo for n in some]) for some in batched(range(len(examples)), BATCH)]
    labels = torch.cat([examples.identities(n) for n in range(len(examples))])
    return instance_retrieval(torch.cat(vectors), labels, torch.arange(len(examples)))


def figures_of(
    name: str, folder: Path, weights: Path, seed: int, split: str, varied: Sequence[str] | None = None
) -> dict[str, float]:
    """Figures of a step on a split; those of an earlier call are read. Of a detector, those of its run's validation."""
    run = run_folder(folder, name, seed, varied)
    if is_detector(name):
        return dict(json.loads((run / "metrics.json").read_text())["last"])
    file = run / f"{split}.json"
    if not file.is_file():
        examples = FolderExamples(sources=folder / split / "true.csv", side=SIDE)
        figures = measure(describer(name, folder, weights, seed, varied), examples)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(figures))
    return dict(json.loads(file.read_text()))


def table(folder: Path, weights: Path, seeds: Sequence[int], steps: Sequence[str], split: str) -> dict[str, object]:
    """Figures of a network without training and after some steps, mean and deviation over the seeds, and their
    differences from the step beside which they are put, seed by seed."""
    measured: dict[str, list[dict[str, float]]] = {}
    for name in [UNTRAINED, *(step for step in steps if not is_detector(step))]:
        measured[name] = [figures_of(name, folder, weights, s, split) for s in (seeds if name in STEPS else seeds[:1])]
        note(f"{name}: {measured[name]}")
    rows: dict[str, object] = {}
    for name, figures in measured.items():
        row: dict[str, object] = {key: spread([of_seed[key] for of_seed in figures]) for key in ("mAP", "P@1")}
        beside = measured.get(STEPS[name].beside) if name in STEPS else None
        if beside is not None:
            before = beside * len(figures) if len(beside) == 1 else beside
            gains = [of_seed["mAP"] - other["mAP"] for of_seed, other in zip(figures, before, strict=True)]
            better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            row |= {"beside": STEPS[name].beside, "gain": spread(gains), "better": better}
        rows[name] = row
    return {"split": split, "queries": measured[UNTRAINED][0].get("queries"), "rows": rows}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("command", choices=("data", "choose", "train", "table"))
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the sets and runs")
    parser.add_argument("--photos", type=Path, help="any photos: façades, backgrounds and noise")
    parser.add_argument("--weights", type=Path, help=f"weights of {ARCH}")
    parser.add_argument("--seed", type=int, default=0, help="of the sets, or of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the table")
    parser.add_argument("--steps", nargs="+", choices=tuple(STEPS), default=list(STEPS))
    parser.add_argument("--split", choices=("val", "test"), default="test", help="of the table (default: test)")
    parser.add_argument("--vary", nargs="+", default=[], metavar="SETTINGS", help="settings to choose from")
    args = parser.parse_args(argv)
    report: dict[str, object] = {}
    if args.command == "data":
        photos = [ref.path for ref in find_images([args.photos]) if isinstance(ref, ImageRef)]
        make_sets(sorted(photos), args.output, args.seed)
    elif args.command == "choose":
        for step in args.steps:
            choose(step, args.output, args.weights, args.seed, [settings.split() for settings in args.vary])
    elif args.command == "train":
        for step in args.steps:
            train(step, args.output, args.weights, args.seed)
    else:
        report = table(args.output, args.weights, args.seeds, args.steps, args.split)
        print(json.dumps(report, indent=1, ensure_ascii=False))
    return report


if __name__ == "__main__":
    main()
