"""Options that several commands share."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer


def among(*values: str) -> Callable[[str], list[str]]:
    """Shell completion: the values that start with the typed text."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Shell completion: names of methods, and files, without importing what is needed to read them."""
    package = Path(__file__).parents[1]
    folders = (package / "configs", package.parent / "configs")  # installed, and in a checkout
    names = sorted(file.stem for folder in folders for file in folder.glob("methods/*.yaml"))
    fitting = [name for name in (*names, "quickstart") if name.startswith(incomplete)]
    return [*fitting, *sorted(glob.glob(f"{incomplete}*.yaml"))]


def plugins(kind: str) -> Callable[[str], list[str]]:
    """Shell completion: names of plug-ins of a kind, also of other packages, without importing them."""

    def complete(incomplete: str) -> list[str]:
        from objemb import registry  # here, since commands start faster without it

        return [name for name in registry.names(kind) if name.startswith(incomplete)]

    return complete


IndexPath = Annotated[
    str,
    typer.Argument(metavar="INDEX", help="An index: a folder, or an address such as postgresql://host/db?table=shop."),
]
Photos = Annotated[
    list[Path],
    typer.Argument(
        metavar="PHOTOS...",
        help="Folders, images, list files, CSV or Parquet files with a path column, COCO files, evaluation sets.",
    ),
]
PhotosOrAddresses = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS...",
        help="Folders, images, list files, CSV or Parquet files with a path column, COCO files, evaluation sets; also "
        "in an object store, such as s3://bucket/shelf.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
#: Equal to :data:`objemb.devices.PRECISIONS`, which is not imported here.
PRECISION_NAMES = ("auto", "fp32", "bf16", "fp16")
Device = Annotated[
    str,
    typer.Option(
        help="Device of the network: auto (a CUDA GPU, else the CPU), gpu, cpu, cuda, cuda:1, mps.",
        autocompletion=among("auto", "cpu", "gpu", "cuda", "mps"),
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the network: fp32, bf16, fp16, or auto (bf16 on a GPU that has it, else fp32; that of an "
        "exported model is the one that it was exported in).",
        autocompletion=among(*PRECISION_NAMES),
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="What runs an exported model: onnxruntime, openvino or torch; by default the first that is installed and "
        "reads its graphs.",
        autocompletion=plugins("runtimes"),
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads that the network computes with; by default what suits the processor.")
]
Workers = Annotated[int, typer.Option(min=1, help="Number of workers that decode photos.")]
#: Equal to :data:`objemb.images.decode.MAX_PIXELS`, which is not imported before a command runs.
MAX_PIXELS = 100_000_000
MaxPixels = Annotated[int, typer.Option(min=1, help="Skip photos with more pixels, before they are decoded.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos per batch; halved automatically if memory is short.")]
MaxRegions = Annotated[int | None, typer.Option(min=0, help="Maximum number of boxes per photo, best first.")]
Boxes = Annotated[
    Path | None, typer.Option(help="Boxes to use instead of the model's detector: a COCO instances or results file.")
]


def check_file(option: str, file: Path | None) -> None:
    """Raise ``FileNotFoundError`` if the folder of an output file does not exist, before the work is done."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise FileNotFoundError(f"{option}: expected a file in a folder that exists, found {file}")


def check_whitening(on: Sequence[Path] | None, pairs: Path | None, dim: int | None, ridge: float) -> None:
    """Raise ``ValueError`` for options of a whitening that cannot be combined.

    Args:
        on: ``--whiten-on``.
        pairs: ``--whiten-pairs``.
        dim: ``--whiten-dim``.
        ridge: ``--whiten-ridge``.
    """
    if dim is not None and not on and pairs is None:
        raise ValueError("--whiten-dim: expected together with --whiten-on or --whiten-pairs, found alone")
    if ridge and pairs is None:
        raise ValueError("--whiten-ridge: expected together with --whiten-pairs, found alone")
    if on and pairs is not None:
        raise ValueError("--whiten-on, --whiten-pairs: expected one of them, found both")
