"""`objemb detect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from objemb.cli.errors import SKIPPED, guarded
from objemb.cli.options import (
    MAX_PIXELS,
    Device,
    Json,
    MaxPixels,
    Photos,
    Precision,
    Runtime,
    Threads,
    Workers,
    check_file,
)
from objemb.cli.output import note, note_reduced, note_untrained, print_json, print_table
from objemb.cli.progress import Progress

if TYPE_CHECKING:
    from objemb.structures import Regions


class _DetectedObject(TypedDict):
    box: list[float]
    score: float
    label: str | None


class _DetectedImage(TypedDict):
    image: str
    size: list[int]
    objects: list[_DetectedObject]


@guarded
def detect(
    photos: Photos,
    *,
    model: Annotated[Path, typer.Option(help="A model folder with a detector.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the boxes to a COCO file for `objemb index --boxes`.")
    ] = None,
    workers: Workers = 2,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show the boxes that would be indexed, without the whole image. Exit code 3 if photos were skipped."""
    from objemb.images.sources import SkippedImage, find_images
    from objemb.images.stream import stream_photos
    from objemb.models.opening import open_model

    check_file("--output", output)
    found = find_images(photos)
    opened = open_model(model, device, precision, runtime=runtime, threads=threads)
    note_untrained(opened)
    note_reduced(opened)
    images: list[_DetectedImage] = []
    skipped = 0
    with Progress() as display:
        total = sum(1 for _ in find_images(photos)) if display.counts else None
        meter = display.meter("detecting", "images", total)
        for photo in stream_photos(found, workers=workers, side=opened.decode_side, max_pixels=max_pixels):
            meter.step()
            if isinstance(photo, SkippedImage):
                skipped += 1
                note(f"skipped {photo.path}: {photo.reason}")
                continue
            try:
                boxes = opened.detect(photo)
            except RuntimeError as error:  # out of memory, for instance: the other photos are smaller
                skipped += 1
                note(f"skipped {photo.id}: the detector failed: {error}")
                continue
            images.append({"image": photo.id, "size": list(photo.size), "objects": _objects(boxes)})
    if not images and not skipped:
        note(f"note: no images were found in {', '.join(map(str, photos))}")
    if output is not None:
        _write_coco(output, images)
    if as_json:
        print_json({"images": images, "skipped": skipped})
    elif output is None:
        rows = [
            (i["image"], f"{o['score']:.3f}", _text(o["box"]), o["label"] or "") for i in images for o in i["objects"]
        ]
        print_table(("image", "score", "box", "label"), rows)
    else:
        print(f"{output}: {sum(len(i['objects']) for i in images)} boxes in {len(images)} images")
    if skipped:
        raise typer.Exit(SKIPPED)


def _objects(regions: Regions) -> list[_DetectedObject]:
    rows = zip(regions.boxes.tolist(), regions.scores.tolist(), regions.label_names, strict=True)
    return [{"box": box, "score": score, "label": label} for box, score, label in rows]


def _text(box: list[float]) -> str:
    return ",".join(f"{v:.0f}" for v in box)


def _write_coco(file: Path, images: list[_DetectedImage]) -> None:
    """Write detections as COCO annotations with scores."""
    from objemb.coco.files import OBJECT
    from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances

    def annotated(image: _DetectedImage) -> AnnotatedImage:
        objects = [AnnotatedObject(o["box"], o["label"] or OBJECT, {"score": o["score"]}) for o in image["objects"]]
        height, width = image["size"]
        return AnnotatedImage(image["image"], (height, width), objects)

    labels = sorted({o["label"] or OBJECT for image in images for o in image["objects"]})
    write_instances(file, map(annotated, images), labels)
