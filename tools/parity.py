"""Compare exported models with PyTorch, in every runtime: networks, shapes of photos, batches, numbers of boxes.

.. code-block:: console

    python tools/parity.py --models my_model --photos photos/ -o parity.json

Photos are given to the graphs as a portrait, as a strip that is one pixel wide, and with a side of 8,000 pixels (2,000
where there are several at once).
Models are exported for photos one by one and four at once, and in variants that find no box, one, and up to 100.
``--small`` runs everything on tiny networks and photos, to try the program.
"""

from __future__ import annotations

from objemb.threads import wait_without_spinning

wait_without_spinning()

import argparse
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from objemb.config import resolve
from objemb.disk import write_whole
from objemb.export.run import ExportSettings, export_model
from objemb.export.verify import Verification, verify
from objemb.images.decode import read_photo
from objemb.images.sources import ImageRef, find_images
from objemb.layers.folded import unfolded
from objemb.models import Model, build_model, load_model
from objemb.models.exported import open_exported
from objemb.regions.detections import Detections
from objemb.runtimes.base import readers
from objemb.structures import Photo

MOBILENET = {"name": "torchvision_cnn", "arch": "mobilenet_v2", "weights": "random"}
TIMM = {"name": "timm_net", "arch": "tf_efficientnet_lite0", "weights": "random"}
NARROW = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"}
#: Every score counts, so that networks with random weights find boxes.
SIDES = {"min_size": 512, "max_size": 512, "score_threshold": 0.0}
EMBEDDING = {"name": "embedding", "weights": "random"}


def tail(backbone: Mapping[str, object]) -> dict[str, object]:
    """The head of the teacher's upper stages."""
    return {"name": "tail", "backbone": backbone, "pooling": {"name": "mean"}, "stride": 8, "weights": "random"}


def student(detector: Mapping[str, object], head: Mapping[str, object], **more: object) -> dict[str, object]:
    """Settings of a one-pass model."""
    return {"describer": {"name": "one_pass", "detector": detector, "head": head, **more}}


def torchvision_rcnn(arch: str) -> dict[str, object]:
    """Of two classes, since each class of a network with random weights would double the boxes."""
    return {"name": "torchvision_rcnn", "arch": arch, "weights": "random", "num_classes": 2, **SIDES}


def faster_rcnn(backbone: Mapping[str, object], **more: object) -> dict[str, object]:
    """The detector of ``configs/train/detect_products.yaml`` on a backbone."""
    pyramid = {"pyramid_strides": [8, 16, 32], "channels": 64, "box_width": 256, "proposals": 200}
    return {"name": "faster_rcnn", "backbone": backbone, **pyramid, "max_detections": 100, **SIDES, **more}


def networks(weights: Sequence[Path] = ()) -> dict[str, dict[str, object]]:
    """Rows of the table by name. Weights are random but in trunks and tails of networks that files are named after."""
    files = {file.name.partition(".")[0]: str(file) for file in weights}
    mobilenet, timm = ({**net, "weights": files.get(net["arch"], "random")} for net in (MOBILENET, TIMM))
    return {
        "MobileNetV3-FPN of torchvision, `embedding`": student(
            torchvision_rcnn("fasterrcnn_mobilenet_v3_large_fpn"), EMBEDDING
        ),
        "ResNet-50-FPN of torchvision, `embedding`": student(torchvision_rcnn("fasterrcnn_resnet50_fpn"), EMBEDDING),
        "`faster_rcnn`, MobileNetV2, `embedding`": student(faster_rcnn(mobilenet), EMBEDDING),
        "`faster_rcnn`, EfficientNet-Lite0 of timm, `embedding`": student(faster_rcnn(timm), EMBEDDING),
        "`faster_rcnn`, MobileNetV2, `tail`": student(faster_rcnn(mobilenet), tail(mobilenet), object_side=96),
        "`faster_rcnn`, EfficientNet-Lite0 of timm, `tail`": student(faster_rcnn(timm), tail(timm), object_side=96),
    }


def detectron2_rcnn(config: str) -> dict[str, object]:
    """A network of Detectron2's own configs, of two classes."""
    few = ["MODEL.RPN.POST_NMS_TOPK_TEST", 200]
    return {"name": "detectron2_rcnn", "config": config, "weights": "random", "num_classes": 2, "opts": few, **SIDES}


#: Where Detectron2 is installed.
DETECTRON2 = {
    "R-50-FPN of Detectron2, `embedding`": student(
        detectron2_rcnn("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"), EMBEDDING
    ),
    "R-50-C4 of Detectron2, `embedding`, windows of its input": student(
        detectron2_rcnn("COCO-Detection/faster_rcnn_R_50_C4_3x.yaml"),
        EMBEDDING,
        **{"object_side": 96, "windows_from": "input"},
    ),
}
#: Standard deviations that the outputs of Detectron2's heads get, in the order in which they run. Its networks have no
#: norms to settle: with random weights their boxes lie far outside of the photo, and hardly any two are apart.
SPREAD = ({"objectness_logits": 2.0, "anchor_deltas": 0.3}, {"cls_score": 2.0, "bbox_pred": 1.0})
TINY = {
    "tiny": student(
        faster_rcnn(NARROW, pyramid_strides=[8, 16], channels=8, box_width=8, min_size=48, max_size=96),
        {**EMBEDDING, "dim": 16, "width": 8},
    )
}
#: ``(height, width)`` of the photos.
SHAPES = {"portrait": (960, 720), "1 px wide": (700, 1), "2,000 px": (1250, 2000), "8,000 px": (5000, 8000)}
SMALL_SHAPES = {"portrait": (90, 60), "1 px wide": (70, 1), "2,000 px": (90, 150), "8,000 px": (120, 200)}
#: The shape that is given in batches alone, and the one that is given one by one.
IN_BATCHES, ALONE = "2,000 px", "8,000 px"
#: Most boxes of a photo, and the least score of each: no box has a score of 1.
VARIANTS = {"no box": (100, 1.0), "1 box": (1, 0.0), "100 boxes": (100, 0.0)}
#: What is exported, since each takes a minute: format, photos at once, and one of the variants.
EXPORTS = (
    ("onnx", 1, "100 boxes"),
    ("onnx", 4, "100 boxes"),
    ("pt2", 1, "100 boxes"),
    ("onnx", 1, "1 box"),
    ("onnx", 4, "no box"),
)
MAX_AT_ONCE = 4


@dataclass(frozen=True)
class Cell:
    """One comparison.

    Attributes:
        model: Row of the table.
        runtime: What ran the graphs.
        batch: Photos at once.
        boxes: One of :data:`VARIANTS`.
        shape: Of the photos.
        measured: What was compared.
    """

    model: str
    runtime: str
    batch: int
    boxes: str
    shape: str
    measured: Verification


def main(argv: Sequence[str] | None = None) -> list[Cell]:
    """Compare everything, tell each comparison and write the report with it at once, and print the table."""
    options = _options(argv)
    shapes = SMALL_SHAPES if options.small else SHAPES
    installed = DETECTRON2 if importlib.util.find_spec("detectron2") else {}
    offered = TINY if options.small else {**networks(options.weights), **installed}
    chosen = {name: settings for name, settings in offered.items() if re.search(options.only, name)}
    rows = [*map(str, options.models), *chosen]
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = _photos(options.photos, shapes, options.seed)
        for number, name in enumerate(rows):
            torch.manual_seed(options.seed)
            model = settled(chosen[name], photos) if name in chosen else load_model(name)
            for cell in compared(name, model, photos, Path(scratch) / str(number), options.exports):
                cells.append(cell)
                _tell(cell)
                if options.output:
                    write_whole(options.output, json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    print(table(cells))
    return cells


def compared(
    name: str, model: Model, photos: Mapping[str, Sequence[Photo]], folder: Path, exports: int
) -> Iterator[Cell]:
    """A model in the first ``exports`` of :data:`EXPORTS`, in all runtimes and shapes."""
    for number, (format, batch, boxes) in enumerate(EXPORTS[:exports]):
        most, min_score = VARIANTS[boxes]
        variant, place = with_boxes(model, most, min_score), folder / str(number)
        print(f"{name}: exporting {_titled(format, batch, boxes)}", file=sys.stderr, flush=True)
        export_model(variant, place, ExportSettings(format, max_detections=most, batch=batch))
        for runtime in (reader.registry_name for reader in readers(format) if reader.is_installed()):
            exported = open_exported(place, runtime=runtime)
            for shape, of_shape in photos.items():
                if shape == (ALONE if batch > 1 else IN_BATCHES):
                    continue
                measured = verify(variant, exported, of_shape[:batch], min_score, search=False)
                yield Cell(name, runtime, batch, boxes, shape, measured)


def settled(settings: Mapping[str, object], photos: Mapping[str, Sequence[Photo]]) -> Model:
    """A model whose batch norms have the statistics of a photo where they have none of their own.

    Without any, activations vanish in deep networks, so that all boxes have one score, and no order.
    """
    model = build_model(resolve(settings))
    norms = [part for part in model.describer.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(_settle) for norm in norms]
    with unfolded():
        model.describe(next(iter(photos.values()))[0])
    for hook in hooks:
        hook.remove()
    if any(name.endswith("objectness_logits") for name, _ in model.describer.named_modules()):
        for layers in SPREAD:
            spread(model, next(iter(photos.values()))[0], layers)
    return model


def _settle(norm: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    """Give a batch norm without statistics those of the first map that it sees.

    Not by its training mode, since describers put their networks into evaluation mode.
    """
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    if not mean.any() and (variance == 1).all():
        variances, means = torch.var_mean(args[0], dim=(0, 2, 3), correction=0)
        mean.copy_(means)
        variance.copy_(variances)


def spread(model: Model, photo: Photo, layers: Mapping[str, float]) -> None:
    """Scale layers, of these names, so that their outputs for a photo have these standard deviations."""
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    found = {name: part for name, part in model.describer.named_modules() if name.rpartition(".")[2] in layers}
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: outputs[name.rpartition(".")[2]].append(output))
        for name, part in found.items()
    ]
    with_boxes(model, 100, 0.0).describe(photo)
    for hook in hooks:
        hook.remove()
    for name, part in found.items():
        name = name.rpartition(".")[2]
        deviation = float(torch.cat([output.flatten() for output in outputs[name]]).std())
        for parameter in part.parameters():
            parameter.data.mul_(layers[name] / deviation)


def with_boxes(model: Model, most: int, min_score: float) -> Model:
    """A copy that keeps at most ``most`` boxes of a photo, of any overlap, from a score on; networks are shared."""
    limited = model.limited(most)
    regions = limited.describer.regions
    if not isinstance(regions, Detections):
        raise ValueError(f"model: expected one that keeps the boxes of its detector, found {limited!r}")
    regions.min_score = min_score
    if most > 1:
        regions.nms_iou = 1.0
    return limited


def table(cells: Sequence[Cell]) -> str:
    """A row for each model and runtime: the worst of all its comparisons."""
    lines = [
        "| model | runtime | photos | boxes | least cosine | largest difference of a score | least overlap |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for model, runtime in dict.fromkeys((cell.model, cell.runtime) for cell in cells):
        measured = [cell.measured for cell in cells if (cell.model, cell.runtime) == (model, runtime)]
        matched, unmatched = (sum(values) for values in zip(*((m.matched, m.unmatched) for m in measured), strict=True))
        failed = sum(len(m.failures) for m in measured)
        lines.append(
            f"| {model} | {runtime} | {sum(m.photos for m in measured)} | {matched} of {matched + unmatched} | "
            f"{min(m.cosine for m in measured):.7f} | {max(m.score for m in measured):.1e} | "
            f"{min(m.iou for m in measured):.5f} |{f' {failed} exceed a tolerance |' if failed else ''}"
        )
    return "\n".join(lines)


def _photos(sources: Sequence[Path], shapes: Mapping[str, tuple[int, int]], seed: int) -> dict[str, list[Photo]]:
    """As many photos of each shape as the largest batch has, decoded in full."""
    if sources:
        refs = islice((ref for ref in find_images(sources) if isinstance(ref, ImageRef)), MAX_AT_ONCE)
        pictures = [read_photo(ref.path).pixels.transpose(1, 2, 0) for ref in refs]
    else:
        noise = np.random.default_rng(seed)
        pictures = [noise.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(MAX_AT_ONCE)]
    if len(pictures) < MAX_AT_ONCE:
        raise ValueError(f"--photos: expected at least {MAX_AT_ONCE} photos, found {len(pictures)}")
    return {
        shape: [_resized(pixels, *size, id=f"{shape} {number}") for number, pixels in enumerate(pictures)]
        for shape, size in shapes.items()
    }


def _resized(pixels: np.ndarray[Any, np.dtype[np.uint8]], height: int, width: int, id: str) -> Photo:
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return Photo(id, np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), (height, width))


def _tell(cell: Cell) -> None:
    """A comparison on stderr, with what exceeds a tolerance."""
    about = f"{cell.model}, {cell.runtime}, {cell.shape}, {cell.batch} at once, {cell.boxes}"
    print(f"{about}: {cell.measured.matched} boxes, cosine {cell.measured.cosine:.7f}", file=sys.stderr, flush=True)
    for failure in cell.measured.failures:
        print(f"{about}: {failure}", file=sys.stderr, flush=True)


def _titled(format: str, batch: int, boxes: str) -> str:
    """One of :data:`EXPORTS` in words."""
    return f"{format}, {batch} at once, {boxes}"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help="model folders to compare")
    parser.add_argument("--only", default="", metavar="REGEX", help="networks of these names (default: all)")
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="trained weights of trunks, each named after its network, as mobilenet_v2.pth (default: random)",
    )
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="four photos or more (default: noise)")
    parser.add_argument(
        "--exports",
        type=int,
        default=len(EXPORTS),
        choices=range(1, len(EXPORTS) + 1),
        help="make only the first of: " + "; ".join(_titled(*export) for export in EXPORTS),
    )
    parser.add_argument("--small", action="store_true", help="tiny networks and photos, to try the program")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a JSON report")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
