"""Networks of Detectron2 from the contents of a config, whether it is YAML or a program.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import GeneralizedRCNN, build_model

from objemb import checks
from objemb.detectors._detectron2_config import rcnn_config
from objemb.detectors._detectron2_lazy import is_lazy, lazy_datasets, lazy_network, lazy_sides
from objemb.types import Settings


class Limits(TypedDict):
    """Settings of :class:`objemb.detectors.detectron2_rcnn.Detectron2Rcnn` that replace values of a config; None for
    those of the config."""

    num_classes: int | None
    score_threshold: float | None
    nms_iou: float | None
    max_detections: int | None
    min_size: int | None
    max_size: int | None


#: Keys of a YAML config.
KEYS = {
    "num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
    "score_threshold": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "nms_iou": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "max_detections": "TEST.DETECTIONS_PER_IMAGE",
    "min_size": "INPUT.MIN_SIZE_TEST",
    "max_size": "INPUT.MAX_SIZE_TEST",
}


@dataclass(frozen=True, eq=False)
class Opened:
    """A network with random weights.

    Attributes:
        network: The network.
        cfg: Its config; None if it was a program.
        sides: Of its input: the shorter side, and the limit of the longer one, in pixels.
        datasets: Names of the data sets of the config.
        classes: Names of its classes; empty if they are not known.
    """

    network: GeneralizedRCNN
    cfg: CfgNode | None
    sides: tuple[int, int]
    datasets: tuple[str, ...]
    classes: tuple[str, ...]


def network_of(content: Settings, opts: Sequence[object], **limits: Unpack[Limits]) -> Opened:
    """The network of a config, without its embedding head, which belongs to a describer.

    Args:
        content: Contents of the config.
        opts: Overrides: key, value, key, value ...
        limits: What replaces values of the config.

    Raises:
        ValueError: Detectron2 does not accept a key or value, or the network is of another kind.
    """
    if is_lazy(content):
        sides = lazy_sides(content, limits["min_size"], limits["max_size"])
        network = instantiate(lazy_network(content, opts, limits))
        names = lazy_datasets(content)
        return Opened(network, None, sides, names, _classes(names, network.roi_heads.num_classes))
    values: dict[str, object] = {**limits}
    said = [item for name, key in KEYS.items() if values[name] is not None for item in (key, values[name])]
    cfg = rcnn_config(content, [*opts, *said])
    low, high = (checks.whole(KEYS[name], cfg.INPUT[f"{name.upper()}_TEST"]) for name in ("min_size", "max_size"))
    names = tuple(str(name) for name in cfg.DATASETS.TRAIN)
    of_config = tuple(str(name) for name in cfg.MODEL.ROI_EMBEDDING_HEAD.CLASSES)
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    classes = of_config if len(of_config) == count else _classes(names, count)
    return Opened(build_model(cfg), cfg, (low, high), names, classes)


def _classes(datasets: Sequence[str], count: int) -> tuple[str, ...]:
    """Names of the classes of the first data set that Detectron2 knows; empty if it knows none."""
    known = [name for name in datasets if name in DatasetCatalog.list()]
    names = MetadataCatalog.get(known[0]).get("thing_classes", ()) if known else ()
    return tuple(names) if len(names) == count else ()
