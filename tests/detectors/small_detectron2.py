"""Small networks of Detectron2's own configs. Imported by tests that have made sure that Detectron2 is there."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor

from objemb.detectors._detectron2_config import read_file
from objemb.detectors.detectron2_rcnn import add_embedding_head_config
from tests.tiny import noise_photo

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"
DC5 = "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml"

#: Keys and values that make the network of any of them small.
COMMON = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 6),
    *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96),
]
#: ResNet-18, whose layers have at least 64 channels.
FPN = [*COMMON, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 16]
#: ResNet-50, which the networks without a pyramid are made for.
NO_FPN = [*COMMON, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
OPTS = {FASTER: FPN, MASK: FPN, CASCADE: FPN, C4: NO_FPN, DC5: NO_FPN}
DIM = 6
NODE = {"DIM": DIM, "WIDTH": 8, "DEPTH": 1}


def usual_config(name: str = FASTER) -> Any:
    """What a user of Detectron2 has anyway."""
    cfg = get_cfg()
    cfg.merge_from_other_cfg(type(cfg)(read_file(name)))
    cfg.merge_from_list(OPTS[name])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def embedding_config(name: str = FASTER, **node: Any) -> Any:
    """The same, with the node of the embedding head."""
    cfg = usual_config(name)
    add_embedding_head_config(cfg)
    for key, value in {**NODE, **node}.items():
        cfg.MODEL.ROI_EMBEDDING_HEAD[key] = value
    return cfg


def built(cfg: Any, seed: int = 0) -> Any:
    """A network in training mode."""
    torch.manual_seed(seed)
    return build_model(cfg)


def entry(sides: tuple[int, int] = (64, 80), seed: int = 0, **more: Any) -> dict[str, Any]:
    """What a data mapper gives of a photo."""
    return {"image": torch.as_tensor(noise_photo(*sides, seed=seed).pixels), **more}


def truth(boxes: list[list[float]], size: tuple[int, int] = (64, 80), **fields: Tensor) -> Instances:
    """Ground truth of the first class."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    for name, value in fields.items():
        instances.set(name, value)
    return instances
