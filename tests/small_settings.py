"""Settings of parts and training data that are quick to build."""

from __future__ import annotations

from typing import Any

RCNN: dict[str, Any] = {
    "arch": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "num_classes": 2,
    "min_size": 48,
    "max_size": 96,
    "score_threshold": 0.0,
    "max_detections": 5,
}
FASTER: dict[str, Any] = {
    "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
    "pyramid_strides": [8, 16],
    "channels": 8,
    "box_width": 8,
    "min_size": 48,
    "max_size": 96,
    "score_threshold": 0.0,
    "max_detections": 5,
}
SCENES: dict[str, Any] = {"name": "scenes", "count": 4, "families": 2, "settings": {"size": 48}}
CROPS: dict[str, Any] = {
    "name": "pooled_regions",
    "regions": {"name": "detections"},
    "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
    "extractor": {"name": "crop", "size": 32},
    "pooling": {"name": "mean"},
}
STUDENT: dict[str, Any] = {
    "name": "one_pass",
    "detector": {"name": "faster_rcnn", **FASTER},
    "head": {"name": "embedding", "dim": 16, "width": 8, "weights": "random"},
    "min_score": 0.0,
}
#: A head of that student that reads a level of the trunk.
TAIL: dict[str, Any] = {
    "name": "tail",
    "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"},
    "pooling": {"name": "mean"},
    "stride": 8,
    "dim": 16,
    "samples": 5,
}
