"""`objemb doctor`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from objemb.cli.errors import INTERNAL, guarded
from objemb.cli.options import Device, Json
from objemb.cli.output import print_json, print_table
from objemb.version import __version__

if TYPE_CHECKING:
    from objemb.cli.programs.tuning import Measured

OK, MISSING, BROKEN = "ok", "missing", "BAD"
REQUIRED = ("numpy", "pillow", "pyarrow", "pyyaml", "safetensors", "rich", "typer")
#: Optional libraries, with the argument of pip that installs each.
OPTIONAL = {
    "torch": "'objemb[torch]'",
    "torchvision": "'objemb[torch]'",
    "faiss-cpu": "'objemb[ann]'",
    "numba": "'objemb[words]'",
    "opencv": "'objemb[methods]'",
    "scipy": "'objemb[methods]'",
    "timm": "'objemb[timm]'",
    "onnxruntime": "'objemb[onnxruntime]'",
    "openvino": "'objemb[openvino]'",
    "huggingface-hub": "'objemb[hub]'",
    "lightning": "'objemb[train]'",
    "matplotlib": "'objemb[train]'",
    "pycocotools": "'objemb[train]'",
    "tensorboard": "'objemb[train]'",
    "detectron2": "--no-build-isolation 'git+https://github.com/facebookresearch/detectron2'",
}


#: Distributions that provide a library, if there are several.
PACKAGES = {
    "faiss-cpu": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12"),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}


class MissingExtraError(Exception):
    """An optional library is not installed: not an error, but some functions need it."""


@guarded
def doctor(
    model: Annotated[Path | None, typer.Option(help="A model folder to test.  [a small random network]")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="A folder in which to test writing.  [the folder for temporary files]")
    ] = None,
    device: Device = "auto",
    tune: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PHOTOS",
            help="Measure on these photos in which runtime and precision --model is fastest on this machine's CPU, and "
            "record the choice.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check versions, threads, devices, a model and writing an index. Exit code 1 if a check fails.

    Missing optional libraries are listed with the command that installs them; they are not errors. With --tune, the
    recorded choice is what --precision auto means for this model from then on, where no --runtime is given.
    """
    if tune and model is None:
        raise ValueError("--tune: expected --model with the model to measure, found none")
    checks: dict[str, Callable[[], str]] = {
        "objemb": lambda: f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
        **{name: partial(importlib.metadata.version, name) for name in REQUIRED},
        **{name: partial(_optional, name) for name in OPTIONAL},
        "processor": _processor,
        "accelerator": _accelerator,
        "runtimes": _runtimes,
        "reading images": _images,
        "model": lambda: _sample(model, device),
        "index": lambda: _index(folder),
    }
    results = [_run(name, check) for name, check in checks.items()]
    healthy = not any(r["state"] == BROKEN for r in results)
    if not as_json:
        for r in results:
            print(f"{r['state']:<7}  {r['name']:<15} {r['detail']}")
    tuning = _tuned(model, tune, as_json) if model and tune and healthy else {}
    if as_json:
        print_json({"healthy": healthy, "checks": results, **tuning})
    if not healthy:
        raise typer.Exit(INTERNAL)


def _tuned(model: Path, photos: list[Path], as_json: bool) -> dict[str, object]:
    """Measure, print and record in which way a model runs fastest."""
    from objemb.card import read_card
    from objemb.cli.programs.tuning import as_choice, best, measure
    from objemb.models.tuned import write_choice

    measured = measure(model, photos)
    chosen = best(measured)
    file = write_choice(read_card(model), as_choice(chosen))
    if not as_json:
        print()
        rows = [
            (
                each.way,
                f"{each.speed.value:.2f}",
                f"{each.speed.low:.2f} to {each.speed.high:.2f}",
                f"{each.cosine:.5f}",
                f"{each.boxes:.0%}",
                "chosen" if each is chosen else "" if each.agrees else "differs",
            )
            for each in measured
        ]
        print_table(("runtime", "speed", "in any round", "least cosine", "same boxes", ""), rows)
        print(f"recorded in {file}: {chosen.way} for this model, where --precision is auto and no --runtime is given")
    return {"tuning": [_as_json(each) for each in measured], "chosen": str(chosen.way), "recorded": str(file)}


def _as_json(measured: Measured) -> dict[str, object]:
    way, speed = measured.way, measured.speed
    found = {"speed": speed.value, "lowest": speed.low, "highest": speed.high, "cosine": measured.cosine}
    return {"runtime": way.runtime, "precision": way.precision, **found, "boxes": measured.boxes}


def _run(name: str, check: Callable[[], str]) -> dict[str, object]:
    try:
        return {"name": name, "state": OK, "detail": check()}
    except MissingExtraError as error:
        return {"name": name, "state": MISSING, "detail": str(error)}
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "torchvision"):
            return {"name": name, "state": MISSING, "detail": f"needs PyTorch (pip install {OPTIONAL['torch']})"}
        return {"name": name, "state": BROKEN, "detail": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _optional(name: str) -> str:
    for package in PACKAGES.get(name, (name,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    raise MissingExtraError(f"optional, not installed (pip install {OPTIONAL[name]})")


def _processor() -> str:
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{allowed} cores, {torch.get_num_threads()} threads for the network"


def _accelerator() -> str:
    import torch

    from objemb.devices import AUTO, find_device, find_precision

    taken = find_device(AUTO)
    used = f"--device auto is {taken}, in {find_precision(AUTO, taken)}"
    if torch.cuda.is_available():
        return f"{', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))}; {used}"
    return f"mps; {used}" if torch.backends.mps.is_available() else f"none; {used}"


def _runtimes() -> str:
    """What runs exported models here, and the precisions in which this processor computes with it."""
    from objemb import registry
    from objemb.runtimes.base import Runtime

    runtimes = [registry.load(Runtime, name) for name in registry.names(Runtime.kind)]
    installed = [
        f"{each.registry_name} in {' or '.join(each.precisions_here())}" for each in runtimes if each.is_installed()
    ]
    return "; ".join(installed) or "none"


def _images() -> str:
    """Write and read a photo in every format."""
    import io

    from PIL import Image

    from objemb.images.decode import read_photo

    formats = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
    for kind in formats:
        buffer = io.BytesIO()
        Image.new("RGB", (40, 30), (200, 30, 30)).save(buffer, kind)
        photo = read_photo(buffer.getvalue())
        if photo.size != (30, 40):
            raise ValueError(f"{kind}: expected size (30, 40), found {photo.size}")
    return ", ".join(formats)


def _sample(folder: Path | None, device: str) -> str:
    """Describe a photo, twice, because the first pass warms up."""
    import numpy as np

    from objemb.models import build_model, open_model
    from objemb.structures.described import expect_vectors

    model = open_model(folder, device) if folder else build_model(SMALL, device=device)
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    model.describe(image)
    started = time.perf_counter()
    described = expect_vectors("doctor", model.describe(image))
    lengths = np.linalg.norm(described.vectors, axis=1)
    if not bool((abs(lengths - 1) < 1e-3).all()):
        raise ValueError(f"expected unit vectors, found lengths {lengths.tolist()}")
    name = str(folder) if folder else "a small random network"
    milliseconds = 1000 * (time.perf_counter() - started)
    return (
        f"{name} on {model.device}: dimension {model.dim}, {milliseconds:.0f} ms for a photo, {model.fingerprint[:12]}"
    )


SMALL = {
    "describer": {
        "name": "pooled_regions",
        "regions": {"name": "whole_image"},
        "backbone": {"name": "torchvision_cnn", "arch": "mobilenet_v3_small", "weights": "random"},
        "extractor": {"name": "map", "size": 224},
        "pooling": {"name": "gem"},
    }
}


def _index(folder: Path | None) -> str:
    """Write, search and verify an index."""
    from objemb.index.storage.unit_vectors import UnitVectors
    from objemb.index.store import Index
    from objemb.structures import RegionDescriptors, Regions

    with tempfile.TemporaryDirectory(prefix="objemb-doctor-", dir=folder) as place:
        index = Index.create(Path(place) / "index", schema=UnitVectors(4), fingerprint="doctor")
        one = RegionDescriptors("photo", Regions.whole((30, 40)), [[1.0, 0, 0, 0]])
        with index.writer() as writer:
            writer.add(one)
        hits = [hit.image for hit in index.search(one)]
        problems = index.verify()
        if hits != ["photo"] or problems:
            raise ValueError(f"expected to find what was written, found {hits}, {problems}")
        return f"written, searched and verified in {Path(place).parent}"
