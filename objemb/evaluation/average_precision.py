"""COCO average precision of a detector."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from objemb import checks
from objemb.evaluation.sizes import SIZE_KEYS, UNKNOWN, side_shares, size_classes
from objemb.structures import NO_LABEL, Regions
from objemb.types import Float64Array

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval, Params

#: Names of the figures by class of size, with the number of the class.
OF_SIZES = {f"AP_{key}": number for number, key in enumerate(SIZE_KEYS.values())}
IOUS = {"AP50": 0.5, "AP75": 0.75}


def coco_average_precision(
    detections: Sequence[Regions], truth: Sequence[Regions], *, class_agnostic: bool = False, max_detections: int = 100
) -> dict[str, float]:
    """The metrics of Lin et al., "Microsoft COCO", 2014, computed by the reference implementation (pycocotools).

    ``AP`` is the precision averaged over recalls of 0, 0.01 ... 1, over IoU thresholds of 0.50, 0.55 ... 0.95, and over
    classes; ``AP50`` and ``AP75`` are for a single threshold.

    Args:
        detections: The detections of each photo, with scores.
        truth: The true boxes of the same photos. Boxes without a label are left out unless ``class_agnostic``.
        class_agnostic: Whether to ignore labels, as if all objects were of one class.
        max_detections: Maximum number of boxes per photo and class, best first.

    Returns:
        0 to 1: ``AP``, ``AP50``, ``AP75``, and by the classes of :mod:`objemb.evaluation.sizes` ``AP_under_9``,
        ``AP_9_19``, ``AP_19_38``, ``AP_38_75``, ``AP_over_75``. As in COCO's own metrics by area, true boxes of other
        size classes are ignored, together with detections that match them, and so are unmatched detections of other
        size classes. A metric without true boxes is left out.

    Raises:
        ValueError: The lists differ in length, or in the sizes of photos.
        ImportError: pycocotools is not installed.
    """
    reference = _reference()
    if len(detections) != len(truth):
        raise ValueError(f"detections, truth: expected one per photo, found {len(detections)} and {len(truth)}")
    for number, (of_photo, known) in enumerate(zip(detections, truth, strict=True)):
        if of_photo.size != known.size:
            raise ValueError(f"detections[{number}]: expected a photo of {known.size} pixels, found {of_photo.size}")
    checks.whole("max_detections", max_detections)
    kept = [known if class_agnostic else known[known.labels != NO_LABEL] for known in truth]
    if not any(map(len, kept)):
        return {}
    precision, params = _precision(reference, detections, kept, class_agnostic, max_detections)
    overall = precision[..., 0]
    ious = {name: overall[np.isclose(params.iouThrs, iou)] for name, iou in IOUS.items()}
    sizes = {name: precision[..., 1 + number] for name, number in OF_SIZES.items()}
    figures = {"AP": overall, **ious, **sizes}
    return {name: float(values[values >= 0].mean()) for name, values in figures.items() if (values >= 0).any()}


def _reference() -> tuple[type[COCO], type[COCOeval]]:
    """The classes ``COCO`` and ``COCOeval`` of the reference implementation."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("average precision needs pycocotools: pip install 'objemb[train]'") from error
    return COCO, COCOeval


def _precision(
    reference: tuple[type[COCO], type[COCOeval]],
    detections: Sequence[Regions],
    truth: Sequence[Regions],
    class_agnostic: bool,
    most: int,
) -> tuple[Float64Array, Params]:
    """Precisions ``(IoUs, recalls, labels, 1 + sizes)``, -1 where there is no true box, and the parameters that name
    the axes."""
    COCO, COCOeval = reference
    labels = {label for regions in (*detections, *truth) for label in regions.labels.tolist()}
    frame = {
        "images": [{"id": n, "height": r.size[0], "width": r.size[1]} for n, r in enumerate(truth)],
        "categories": [{"id": label} for label in ([0] if class_agnostic else sorted(labels))],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        sides = []
        for regions in (truth, detections):
            side = COCO()
            side.dataset = frame | {"annotations": _annotations(regions, class_agnostic)}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.maxDets = [most]
        # pycocotools selects by ranges of areas, both ends included; here the number of the size class is the area
        evaluation.params.areaRng = [[UNKNOWN, len(OF_SIZES)], *([number, number] for number in OF_SIZES.values())]
        evaluation.params.areaRngLbl = ["all", *OF_SIZES]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0], evaluation.params


def _annotations(photos: Sequence[Regions], class_agnostic: bool) -> list[dict[str, object]]:
    annotations: list[dict[str, object]] = []
    for number, regions in enumerate(photos):
        classes = size_classes(side_shares(regions.boxes, regions.size)).tolist()
        rows = zip(regions.boxes.tolist(), regions.scores.tolist(), regions.labels.tolist(), classes, strict=True)
        for (x1, y1, x2, y2), score, label, size in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes 0 for no match
                    "image_id": number,
                    "category_id": 0 if class_agnostic else label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": size,
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return annotations
