"""`objemb export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from objemb.cli.errors import SKIPPED, guarded
from objemb.cli.options import Json, among, plugins
from objemb.cli.output import note, note_untrained, print_json, print_pairs
from objemb.cli.progress import Progress

#: As in :mod:`objemb.runtimes.exported` and :mod:`objemb.export.run`, which are not imported before the command runs.
FORMAT_NAMES = ("onnx", "openvino", "pt2")
PRECISION_NAMES = ("fp32", "fp16", "int8")


@guarded
def export(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTOS...", help="For --verify: folders, images or list files."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    format: Annotated[
        str, typer.Option(help="onnx, openvino, or pt2 (torch.export).", autocompletion=among(*FORMAT_NAMES))
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16: weights of half the size, or int8: convolutions in 8 bits, less exact, with --calibrate.",
            autocompletion=among(*PRECISION_NAMES),
        ),
    ] = "fp32",
    max_detections: Annotated[int, typer.Option(min=0, help="At most this many boxes per photo, best first.")] = 100,
    size: Annotated[
        str, typer.Option(metavar="dynamic|WIDTHxHEIGHT", help="Photos of any size, or of one size alone.")
    ] = "dynamic",
    batch: Annotated[int, typer.Option(min=1, help="Photos at once, all of one size.")] = 1,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare the result with PyTorch on PHOTOS, or on generated scenes where none are given; nothing is "
            "written where they differ.",
        ),
    ] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="What runs the result for --verify; by default everything that is installed and reads the format.",
            autocompletion=plugins("runtimes"),
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="For int8: some dozens of photos like those to come, others than for --verify."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as graphs that find objects and describe them without PyTorch.

    The folder has the fingerprint of the model: `objemb index`, `search` and `detect` take it in its place. Exit code 3
    when photos to verify on or to calibrate with were skipped.
    """
    from objemb.card import check_free
    from objemb.export.run import ExportSettings, export_model
    from objemb.images.decode import UnreadableImageError, read_photo
    from objemb.images.sources import SkippedImage, find_images
    from objemb.models import load_model
    from objemb.structures import Photo

    check_free(output, force)  # checked before a model is loaded and traced
    settings = ExportSettings(format, precision, max_detections, _size(size), batch)
    if (precision == "int8") != bool(calibrate):
        expected = "photos for --precision int8" if precision == "int8" else f"none with --precision {precision}"
        raise ValueError(f"--calibrate: expected {expected}, found {len(calibrate or [])} paths")
    if photos and not verify:
        raise ValueError(f"PHOTOS: expected --verify before photos to compare on, found {photos[0]} alone")
    if runtime and not verify:
        raise ValueError(f"--runtime: expected --verify, whose comparison it runs, found {', '.join(runtime)} alone")
    opened = load_model(model)
    note_untrained(opened)
    skipped = 0

    def readable(option: str, paths: list[Path] | None) -> list[Photo]:
        nonlocal skipped
        found: list[Photo] = []
        for image in find_images(paths or []):
            try:
                if isinstance(image, SkippedImage):
                    raise UnreadableImageError(image.reason)
                found.append(read_photo(image.path, id=image.id, side=opened.decode_side))
            except (OSError, UnreadableImageError) as error:
                skipped += 1
                note(f"skipped {image.path}: {error}")
        if paths and not found:
            raise ValueError(f"{option}: expected photos, found none of {skipped} readable")
        return found

    shown, calibration = readable("--verify", photos), readable("--calibrate", calibrate)
    with Progress() as display:
        display.meter("exporting", "graphs", None)
        verifications = export_model(
            opened,
            output,
            settings,
            photos=shown,
            scenes=verify and not photos,
            runtimes=runtime or (),
            calibration=calibration,
            force=force,
        )
    if as_json:
        found = {name: verification.as_card() for name, verification in verifications.items()}
        print_json({"path": str(output), "fingerprint": opened.fingerprint, "verified": found})
    else:
        compared = [] if verifications else [("verified", "no: give --verify, with photos where there are some")]
        for name, verification in verifications.items():
            compared += [
                ("verified", f"by {name} on {verification.photos} {verification.on}"),
                (
                    "boxes",
                    f"{verification.matched} the same, {verification.unmatched} at a limit of score or overlap differ",
                ),
                ("least cosine", f"{verification.cosine:.6f}"),
                (
                    "mAP",
                    f"{verification.map_pytorch:.1f} by PyTorch, {verification.map_exported:.1f} exported, "
                    f"{verification.map_pytorch - verification.map_exported:.1f} lost",
                ),
            ]
        print_pairs([("exported", output), ("fingerprint", opened.fingerprint), *compared])
    if skipped:
        raise typer.Exit(SKIPPED)


def _size(text: str) -> tuple[int, int] | None:
    """``(height, width)`` of ``640x480``, None of ``dynamic``."""
    if text == "dynamic":
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) > 0 and int(height) > 0):
        raise ValueError(f"--size: expected dynamic, or WIDTHxHEIGHT such as 640x480, found {text!r}")
    return int(height), int(width)
