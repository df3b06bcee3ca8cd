"""Speed of exported models in every installed runtime and precision, from JPEG files to a published index."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from objemb.card import read_card
from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.cli.programs.tuning import ways_of
from objemb.config import resolve
from objemb.export.run import ExportSettings, export_model
from objemb.images.sources import ImageRef, find_images
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.layers.folded import unfolded
from objemb.models import Model, build_model, load_model
from objemb.models.base import EmbeddingModel
from objemb.models.opening import open_model
from objemb.search.indexing import Job
from tools.benchmarks import one_pass
from tools.benchmarks.indexing import write_photos

MOBILENET = {"name": "torchvision_cnn", "arch": "mobilenet_v2", "weights": "random"}
#: The student of ``configs/train/detect_products.yaml`` and ``distill_products.yaml``, and one on a larger network.
#: Their weights are random; so that boxes are described, no score is too low. One class, as for objects of any kind:
#: of 90, each proposal would be 90 candidates, which a trained network rejects by their scores.
ANY_SCORE = {"min_score": 0.0, "max_regions": 20}
LIGHT = {
    "describer": {
        "name": "one_pass",
        "detector": {
            "name": "faster_rcnn",
            "backbone": MOBILENET,
            **one_pass.LIGHT,
            "min_size": 512,
            "max_size": 512,
            "score_threshold": 0.0,
        },
        "head": {"name": "tail", "backbone": MOBILENET, "pooling": {"name": "mean"}, "stride": 8, "weights": "random"},
        "object_side": 96,
        **ANY_SCORE,
    }
}
LARGE = {
    "describer": {
        "name": "one_pass",
        "detector": {
            "name": "torchvision_rcnn",
            "arch": "fasterrcnn_resnet50_fpn",
            "weights": "random",
            "num_classes": 2,
            "min_size": 512,
            "max_size": 512,
            "score_threshold": 0.0,
        },
        "head": {"name": "embedding", "weights": "random"},
        **ANY_SCORE,
    }
}
TINY = {
    "describer": {
        "name": "one_pass",
        "detector": {
            "name": "faster_rcnn",
            "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
            "pyramid_strides": [8, 16],
            "channels": 8,
            "box_width": 8,
            "min_size": 48,
            "max_size": 96,
            "score_threshold": 0.0,
        },
        "head": {"name": "embedding", "dim": 16, "width": 8, "weights": "random"},
        **ANY_SCORE,
    }
}
FULL: dict[str, Any] = {
    "settings": {"one pass, MobileNetV2, 512 pixels": LIGHT, "one pass, ResNet-50-FPN, 512 pixels": LARGE},
    "photos": 24,
    "side": 800,
    "rounds": 5,
}
SMALL: dict[str, Any] = {"settings": {"tiny": TINY}, "photos": 2, "side": 64, "rounds": 1}
BATCH_SIZE, WORKERS = 8, 2
EAGER, PLAIN = "PyTorch eager fp32", "a plain loop"


def run(sizes: Mapping[str, Any], seed: int) -> Iterator[Ratio]:
    """Indexing by PyTorch, and a plain loop over its model, over indexing by each runtime.

    The plain loop describes one file after the other, by the networks as they are: no batches, no decoding ahead and
    no folded norms. ``sizes["models"]`` are model folders to measure in place of the models with random weights,
    ``sizes["exported"]`` folders of those that are exported already, and ``sizes["files"]`` photos in place of
    generated ones.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = list(sizes.get("files") or [])
        if not sources:
            write_photos(folder / "photos", sizes["photos"], sizes["side"], seed)
            sources = [folder / "photos"]
        photos = [ref.path for ref in find_images(sources) if isinstance(ref, ImageRef)][: sizes["photos"]]
        for number, (name, model) in enumerate(_models(sizes)):
            made = [p for p in sizes.get("exported") or [] if read_card(p)["fingerprint"] == model.fingerprint]
            place = folder / str(number)
            place.mkdir()
            if not made:
                export_model(model, place / "exported", ExportSettings())
            exported = made[0] if made else place / "exported"
            yield from _of_model(name, model, exported, photos, place, sizes["rounds"])


def _models(sizes: Mapping[str, Any]) -> Iterator[tuple[str, Model]]:
    if sizes.get("models"):
        yield from ((Path(folder).name, load_model(folder)) for folder in sizes["models"])
    else:
        yield from ((name, build_model(resolve(settings))) for name, settings in sizes["settings"].items())


def _of_model(
    name: str, model: Model, exported: Path, photos: Sequence[Path], folder: Path, rounds: int
) -> Iterator[Ratio]:
    numbers = count()

    def indexing(of: EmbeddingModel) -> None:
        index = Index.create(folder / f"index{next(numbers)}", schema=UnitVectors(of.dim), fingerprint=of.fingerprint)
        report = Job(index, of, photos, batch_size=BATCH_SIZE, workers=WORKERS).run()
        if report.skipped or report.added != len(photos):
            raise RuntimeError(f"indexing {name}: expected {len(photos)} photos to be added, found {report}")

    sides: dict[str, Callable[[], object]] = {EAGER: partial(indexing, model), PLAIN: partial(_plain, model, photos)}
    for way in ways_of(exported):
        with suppress(ValueError):  # a runtime may lack a precision for this model
            sides[str(way)] = partial(indexing, open_model(exported, precision=way.precision, runtime=way.runtime))
    times = alternate(sides, rounds)
    rows = sum(len(described) for described in model.stream(list(photos)))
    facts: dict[str, Any] = {"photos": len(photos), "boxes": rows - len(photos)}
    yield ratio(f"{name}: {PLAIN} over {EAGER}", times[PLAIN], times[EAGER], **facts)
    for side in list(sides)[2:]:
        yield ratio(f"{name}: {EAGER} over {side}", times[EAGER], times[side], **facts)
        yield ratio(f"{name}: {PLAIN} over {side}", times[PLAIN], times[side], **facts)


def _plain(model: Model, photos: Sequence[Path]) -> None:
    with unfolded():
        for photo in photos:
            model.describe(photo)
