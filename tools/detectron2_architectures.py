"""Which networks of Detectron2 take which embedding head: the table of docs/detectron2.md.

Each config that comes with Detectron2 is made small, built with random weights, and asked for the
objects of one picture. A row says whether every object has a vector, or why the config is refused.
"""

from __future__ import annotations

import warnings

import torch

CONFIGS = (
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
    "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "Misc/semantic_R_50_FPN_1x.yaml",
)
SMALL = (
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.DEVICE", "cpu"),
    *("TEST.DETECTIONS_PER_IMAGE", 6, "MODEL.ROI_EMBEDDING_HEAD.DIM", 16, "MODEL.ROI_EMBEDDING_HEAD.WIDTH", 16),
)


def outcome(name: str, head: str) -> str:
    """What happens to a config with a head."""
    from detectron2.config import CfgNode, get_cfg
    from detectron2.layers import FrozenBatchNorm2d
    from detectron2.modeling import build_model

    from objemb.detectors._detectron2_config import find_file
    from objemb.detectors.detectron2_rcnn import add_embedding_head_config, describe_boxes

    cfg = get_cfg()
    add_embedding_head_config(cfg)
    try:
        cfg.merge_from_file(str(find_file(name)), allow_unsafe=True)
    except ValueError as error:
        return "refused: " + ("no ROI heads" if "has none" in str(error) else str(error))
    node = cfg.MODEL.ROI_EMBEDDING_HEAD
    cfg.merge_from_list(list(SMALL))
    node.NAME = head
    node.BACKBONE = CfgNode({"name": "narrow_resnet", "width": 8, "blocks": [1, 1, 1, 1]}, new_allowed=True)
    node.POOLING = CfgNode({"name": "mean"}, new_allowed=True)
    network = build_model(cfg).eval()
    with torch.no_grad():  # activations of about the size of a trained network's
        for module in network.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.weight.fill_(0.5)
    picture = torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        instances = network([{"image": picture}])[0]["instances"]
    boxes = instances.pred_boxes.tensor
    again = describe_boxes(network, picture.permute(1, 2, 0).numpy(), boxes)
    if not len(instances) or not torch.allclose(again, instances.pred_embeddings, atol=1e-4):
        return f"wrong: {len(instances)} boxes"
    return f"{len(instances)} of {len(instances)} boxes"


def main() -> None:
    """Print the table in Markdown."""
    warnings.simplefilter("ignore")
    print("| config | `embedding` | `tail` |\n|---|---|---|")
    for name in CONFIGS:
        cells = []
        for head in ("embedding", "tail"):
            torch.manual_seed(0)
            try:
                cells.append(outcome(name, head))
            except Exception as error:  # a row of the table
                cells.append(f"{type(error).__name__}: {str(error)[:80]}")
        print(f"| `{name.removesuffix('.yaml')}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
