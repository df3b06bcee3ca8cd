"""From a model to an exported folder."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from objemb import checks
from objemb.aggregators.base import Aggregator
from objemb.card import check_free, write_folder
from objemb.checks import ObjembError
from objemb.describers.base import DescriptionProgram
from objemb.export.graphs import traced
from objemb.export.quantize import EXACT
from objemb.export.scenes import verification_scenes
from objemb.export.verify import GIVEN, SCENES, Verification, as_taken, verify
from objemb.export.writers import OPSET, write_graph
from objemb.models.build import model_card
from objemb.models.exported import open_exported
from objemb.models.model import Model
from objemb.runtimes.base import readers
from objemb.runtimes.exported import BOXES, EXPORT, FORMATS, PART, PHOTOS, Exported, Graph
from objemb.structures import Photo, Regions
from objemb.types import AnyArray

PRECISIONS = ("fp32", "fp16", "int8")
#: Of PyTorch: earlier ones were not tried, and far earlier ones cannot trace boxes whose number is not known.
MIN_TORCH = (2, 14)


class VerificationError(ObjembError):
    """An exported model does not give what PyTorch gives; the message names the photo."""


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, and how.

    Attributes:
        format: One of :data:`objemb.runtimes.exported.FORMATS`.
        precision: ``fp32``; ``fp16``: weights are stored in half precision; or ``int8``: layers compute in 8-bit whole
            numbers, see :func:`objemb.export.quantize.quantized`. A ``.pt2`` is in ``fp32``.
        max_detections: At most so many boxes per photo; the model may be content with fewer.
        size: ``(height, width)`` of the only photos that will be taken; None for any size.
        batch: Photos that the graph ``photos`` takes at once, all of one size.
    """

    format: str = "onnx"
    precision: str = "fp32"
    max_detections: int = 100
    size: tuple[int, int] | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        checks.one_of("format", self.format, FORMATS)
        checks.one_of("precision", self.precision, PRECISIONS)
        if self.format == "pt2" and self.precision != "fp32":
            raise ValueError(f"precision: expected fp32 for the format pt2, found {self.precision}")
        checks.whole("max_detections", self.max_detections, 0)
        checks.whole("batch", self.batch)


def export_model(
    model: Model,
    folder: str | Path,
    settings: ExportSettings | None = None,
    *,
    photos: Sequence[Photo] = (),
    scenes: bool = False,
    runtimes: Sequence[str] = (),
    calibration: Sequence[Photo] = (),
    force: bool = False,
) -> dict[str, Verification]:
    """Write a model as graphs that run without PyTorch, into a folder that has the model's fingerprint.

    Args:
        model: On the CPU, in float32.
        folder: A new one.
        settings: ONNX for photos of any size by default.
        photos: Photos on which what was written is compared with PyTorch before the folder is there; without any, and
            without ``scenes``, nothing is compared.
        scenes: Whether generated scenes take the place of photos.
        runtimes: Names of the runtimes that compute it for this comparison; by default all that are installed and read
            the format.
        calibration: For ``int8``: photos like those that will be described, whose activations decide the scales.
        force: Whether a model that is in the folder may be replaced.

    Returns:
        What the comparison found, by the name of the runtime; empty where nothing was compared.

    Raises:
        FileExistsError: The folder is there.
        TypeError, ValueError: A model that cannot be exported, settings that do not fit it, a runtime that does not
            read the format, or both photos and ``scenes``.
        VerificationError: What was written gives something else than the model; nothing is left of it.
        ImportError: The library of the format, or to compare its runtime, is not installed.
        ObjembError: The folder could not be written.
    """
    if (found := torch_version()) < MIN_TORCH:
        raise ImportError(f"export: expected PyTorch {_version(MIN_TORCH)} or later, found {_version(found)}")
    settings = settings or ExportSettings()
    folder = Path(folder)
    check_free(folder, force)
    if model.device != "cpu" or model.precision != "fp32":
        raise ValueError(f"export: expected a model on cpu in fp32, found {model.device} in {model.precision}")
    if (settings.precision == "int8") != bool(calibration):
        expected = "photos to calibrate int8 with" if settings.precision == "int8" else f"none for {settings.precision}"
        raise ValueError(f"calibration: expected {expected}, found {len(calibration)} photos")
    if photos and scenes:
        raise ValueError(f"scenes: expected no photos beside generated scenes, found {len(photos)}")
    if photos or scenes:
        runtimes = _proving(settings.format, runtimes)
    model.pipeline.check_fitted()
    describer = model.vector_describer("export")
    aggregator = cast(Aggregator, model.aggregator)  # of a describer of vectors
    in_context = describer.queries_in_context(aggregator.per_region)
    program = describer.program(settings.max_detections, None if aggregator.per_region else aggregator.row)
    samples = _samples(program, [as_taken(photo, settings.size) for photo in calibration], settings.batch)
    with _uncollected():
        programs = traced(program, settings.batch, settings.size, in_context)
    exact = EXACT if model.has_detector else 0  # it is boxes that the first layers move
    about = {"objemb.fingerprint": model.fingerprint, "objemb.dim": str(model.dim)}
    with tempfile.TemporaryDirectory() as scratch:
        graphs = {}
        for name, one in programs.items():
            with _uncollected():
                said = (settings.format, settings.precision, about)
                files = write_graph(one, Path(scratch), name, *said, samples[name], exact)
            graphs[name] = Graph(tuple(files), one.inputs, one.outputs)
        exported = Exported(
            format=settings.format,
            precision=settings.precision,
            graphs=graphs,
            batch=settings.batch,
            size=settings.size,
            max_detections=program.max_detections,
            classes=() if model.detector is None else tuple(model.detector.classes),
            decode_side=model.decode_side,
            per_region=aggregator.per_region,
            in_context=in_context,
            covers=program.covers,
            untrained=tuple(model.untrained),
            opset=OPSET if settings.format == "onnx" else None,
        )
        verifications = {}
        if photos or scenes:
            shown = verification_scenes() if scenes else photos
            trial = Path(scratch) / "trial"
            _write(model, exported, Path(scratch), trial)
            for runtime in runtimes:
                opened = open_exported(trial, runtime=runtime)
                limited = model.limited(program.max_detections)
                verifications[runtime] = verify(
                    limited, opened, shown, program.min_score, on=SCENES if scenes else GIVEN
                )
            failures = [f"{name}: {line}" for name, one in verifications.items() for line in one.failures]
            if failures:
                raise VerificationError(
                    f"{folder}: expected what PyTorch gives, found other results, so that nothing was written: "
                    f"{checks.lines(failures)}"
                )
            exported = replace(exported, verified={name: one.as_card() for name, one in verifications.items()})
        _write(model, exported, Path(scratch), folder, force=force)
    return verifications


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for circular references: a tenth of the time in which hundreds of thousands of nodes are made."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def _proving(format: str, names: Sequence[str]) -> list[str]:
    """Names of the runtimes that compute a trial of a format: those that were named, or all that are installed."""
    reading = {runtime.registry_name: runtime for runtime in readers(format)}
    for name in names:
        checks.one_of(f"runtime for the format {format}", name, tuple(reading))
    installed = [name for name, runtime in reading.items() if runtime.is_installed()]
    if missing := [name for name in names if name not in installed] or ([] if installed else list(reading)[:1]):
        raise ImportError(f"verify: expected the runtime {missing[0]}; pip install 'objemb[{missing[0]}]'")
    return list(dict.fromkeys(names)) or installed


@torch.no_grad()
def _samples(program: DescriptionProgram, photos: Sequence[Photo], batch: int) -> dict[str, list[dict[str, AnyArray]]]:
    """Inputs of all graphs for a calibration: the photos, also as parts of themselves, and with each photo the boxes
    that are found in it."""
    samples: dict[str, list[dict[str, AnyArray]]] = {PHOTOS: [], BOXES: [], PART: []}
    for photo in photos:
        pixels = photo.interleaved()
        found = program.photos(torch.as_tensor(pixels)[None])
        boxes = [Regions.whole(photo.size).boxes]
        if "boxes" in found:
            boxes.append(found["boxes"][0, : int(found["count"][0])].numpy())
        samples[PHOTOS].append({"photos": np.repeat(pixels[None], batch, axis=0)})
        samples[BOXES].append({"photo": pixels, "boxes": np.concatenate(boxes)})
        samples[PART].append({"part": pixels, "rows": pixels[:, 0, 0], "columns": pixels[0, :, 0]})
    return samples


def torch_version() -> tuple[int, ...]:
    """Major and minor version of PyTorch."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def _version(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _write(model: Model, exported: Exported, scratch: Path, folder: Path, *, force: bool = False) -> None:
    """A folder with the graphs that lie in ``scratch``."""
    card = {**model_card(model), EXPORT: exported.as_card()}

    def write(partial: Path) -> None:
        for graph in exported.graphs.values():
            for file in graph.files:
                shutil.copyfile(scratch / file, partial / file)

    write_folder(folder, card, write, force=force)
