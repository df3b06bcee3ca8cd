"""Networks with an embedding head, from Detectron2 to objemb and back.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode

from objemb.detectors._detectron2_config import add_embedding_head_config, of_network, rcnn_config, read_file
from objemb.detectors._detectron2_heads import head_settings
from objemb.detectors._detectron2_lazy import embedding_settings, is_lazy, lazy_network, predictors
from objemb.detectors._detectron2_weights import EMBEDDING_HEAD, has_embedding_head, local_file
from objemb.heads.base import Head
from objemb.types import Settings
from objemb.weights.pickled_arrays import read_pickled_arrays
from objemb.weights.read import read_weights

#: Files of a network in Detectron2's form.
CONFIG, WEIGHTS = "config.yaml", "model_final.pth"


def one_pass_settings(
    config_file: str | Path, weights: str | Path, classes: Sequence[str] | None, opts: Sequence[object]
) -> tuple[dict[str, object], dict[str, str]]:
    """Settings of the describer ``one_pass`` that gives what a network of Detectron2 gives: its boxes down to its own
    score threshold, and their vectors.

    Args:
        config_file: Its config, such as the ``config.yaml`` of a training.
        weights: Its weights.
        classes: Names of its classes; None for those in the config.
        opts: Overrides of the config: key, value, key, value ...

    Returns:
        The settings, and where detector, head and labels come from.

    Raises:
        FileNotFoundError, ValueError: The config is none of such a network.
        MissingWeightsError, UnreadableWeightsError: The weights cannot be read.
    """
    content, file = read_file(config_file, opts), local_file(weights)
    found = _trained_lazily(content, opts) if is_lazy(content) else _trained(content, opts)
    trained = file.suffix != ".pkl" and has_embedding_head(read_weights(file))
    names = list(classes) if classes is not None else found.classes
    detector = {
        "name": "detectron2_rcnn",
        "config": of_network(content),
        "opts": list(opts),
        "weights": str(file),
        "classes": names or None,
    }
    describer = {
        "name": "one_pass",
        "detector": detector,
        "head": {**found.head, "weights": str(file) if trained else None},
        "min_score": found.min_score,
        "nms_iou": 1.0,  # that of the detector, class by class, is part of its config
        "max_regions": found.max_regions,
        "object_side": found.object_side or None,
        "windows_from": "input",
    }
    labels = f"{len(names)} names of {'--classes' if classes is not None else 'the config'}" if names else "numbers"
    return describer, {
        "detector": str(file),
        "head": f"{found.head['name']} of {file}" if trained else "none in the weights",
        "labels": labels,
        "boxes": f"from score {describer['min_score']}, at most {describer['max_regions']} per photo, as in Detectron2",
    }


@dataclass(frozen=True)
class _Trained:
    """What the config of a network with an embedding head says.

    Attributes:
        head: Settings of the head.
        object_side: At which it describes objects, in pixels of the input; 0 for their own size.
        min_score: Lowest score of its boxes.
        max_regions: Largest number of them.
        classes: Their names, empty if unknown.
    """

    head: dict[str, object]
    object_side: float
    min_score: float
    max_regions: int
    classes: list[str]


def _trained(content: Settings, opts: Sequence[object]) -> _Trained:
    cfg = rcnn_config(content, opts)
    node, limits = cfg.MODEL.ROI_EMBEDDING_HEAD, (cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE)
    classes = [str(name) for name in node.CLASSES]
    return _Trained(head_settings(node), float(node.OBJECT_SIDE), float(limits[0]), int(limits[1]), classes)


def _trained_lazily(content: Settings, opts: Sequence[object]) -> _Trained:
    head, side = embedding_settings(content)
    (*_, last) = predictors(lazy_network(content, opts, {}))
    (low, most) = (
        last.get(key, default) for key, default in (("test_score_thresh", 0.0), ("test_topk_per_image", 100))
    )
    return _Trained(head, side, float(low), int(most), [])


def write(cfg: CfgNode, network: torch.nn.Module, head: Head, describer: Settings, folder: Path) -> None:
    """Write a network with its head as Detectron2 opens it: ``config.yaml`` and ``model_final.pth``.

    Args:
        cfg: The config of the network.
        network: The network.
        head: The head.
        describer: Settings of the ``one_pass`` that they are parts of, defaults included.
        folder: An existing folder.
    """
    cfg = cfg.clone()
    cfg.defrost()
    add_embedding_head_config(cfg)
    node, settings = cfg.MODEL.ROI_EMBEDDING_HEAD, describer["head"]
    for key in ("dim", "width", "depth", "shortcut", "samples", "sampling_ratio", "anchor", "stride"):
        if settings.get(key) is not None:
            node[key.upper()] = settings[key]
    if settings["dim"] is None:
        node.DIM = 0
    for key in ("backbone", "pooling"):
        if settings.get(key) is not None:
            node[key.upper()] = CfgNode(_without_none(settings[key]), new_allowed=True)
    node.NAME, node.IN_FEATURES = settings["name"], list(settings.get("levels") or [])
    node.OBJECT_SIDE = float(describer["object_side"] or 0.0)
    node.CLASSES = list(describer["detector"].get("classes") or node.CLASSES)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = max(cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, float(describer["min_score"]))
    cfg.TEST.DETECTIONS_PER_IMAGE = min(cfg.TEST.DETECTIONS_PER_IMAGE, int(describer["max_regions"]))
    cfg.MODEL.WEIGHTS = WEIGHTS
    state = {**network.state_dict(), **{f"{EMBEDDING_HEAD}{k}": v for k, v in head.state_dict().items()}}
    (folder / CONFIG).write_text(cfg.dump(), encoding="utf-8")
    torch.save({"model": {k: v.detach().cpu().clone() for k, v in state.items()}}, folder / WEIGHTS)


def read_checkpoint(file: str) -> dict[str, object]:
    """A file of weights for Detectron2's checkpointer, without executing anything in it."""
    if file.endswith(".pkl"):
        content = read_pickled_arrays(file)
        if not isinstance(content, Mapping):
            raise ValueError(f"{file}: expected arrays by name, found {type(content).__name__}")
        if "model" in content and "__author__" in content:
            return dict(content)
        return {"model": dict(content.get("blobs", content)), "__author__": "Caffe2", "matching_heuristics": True}
    with Path(file).open("rb") as stream:
        loaded = torch.load(stream, map_location="cpu", weights_only=True)
    return loaded if "model" in loaded else {"model": loaded}


def _without_none(settings: Settings) -> dict[str, object]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if value is not None
    }
