"""Photos as Detectron2's ``DefaultPredictor`` sends them to a network, and vectors of given boxes of a photo.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

import numpy as np
import torch
from detectron2.data.transforms import ResizeTransform
from detectron2.engine import DefaultPredictor
from detectron2.modeling import GeneralizedRCNN
from numpy.typing import ArrayLike
from torch import Tensor

from objemb import checks
from objemb.detectors._detectron2_heads import WithEmbeddings
from objemb.ops.boxes import clip, scale
from objemb.ops.tensors import as_tensor
from objemb.types import Uint8Array


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bytes resized by Pillow, as all of Detectron2's data mappers and predictors do.

    Args:
        pixels: uint8 ``(3, h, w)``.
        size: ``(height, width)`` of the result.

    Returns:
        uint8 ``(3, height, width)``.
    """
    rows = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    image = ResizeTransform(rows.shape[0], rows.shape[1], size[0], size[1], None).apply_image(rows)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@torch.no_grad()
def describe_boxes(model: object, image: Uint8Array, boxes: ArrayLike) -> Tensor:
    """See :func:`objemb.detectors.detectron2_rcnn.describe_boxes`."""
    rows = np.asarray(image)
    if rows.dtype != np.uint8 or rows.ndim != 3 or rows.shape[2] != 3:
        raise ValueError(f"image: expected uint8 (H, W, 3), found {rows.dtype} {rows.shape}")
    network, sent = model, rows
    if isinstance(model, DefaultPredictor):
        network = model.model
        sent = rows[:, :, ::-1] if model.input_format == "RGB" else rows
        sent = model.aug.get_transform(rows).apply_image(sent)
    if not isinstance(network, GeneralizedRCNN) or not isinstance(network.roi_heads, WithEmbeddings):
        found = type(getattr(network, "roi_heads", network)).__name__
        raise TypeError(
            f"model: expected a network with an embedding head, found {found}; call add_embedding_head_config on its "
            "config"
        )
    given = as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 4))
    checks.finite("boxes", given)
    pixels = torch.as_tensor(np.ascontiguousarray(sent.transpose(2, 0, 1)))
    factors = (sent.shape[0] / rows.shape[0], sent.shape[1] / rows.shape[1])
    return described(network, pixels, scale(clip(given, (rows.shape[0], rows.shape[1])), factors))


@torch.no_grad()
def described(network: GeneralizedRCNN, pixels: Tensor, boxes: Tensor) -> Tensor:
    """Vectors of boxes of one image, both as they enter the network.

    Args:
        network: A network with an embedding head, in eval mode.
        pixels: ``(3, h, w)``, as a data mapper gives them.
        boxes: ``(N, 4)``, xyxy edges in these pixels.

    Returns:
        float32 ``(N, D)`` on the CPU, of unit length.
    """
    images = network.preprocess_image([{"image": pixels}])
    features = network.backbone(images.tensor)
    vectors: Tensor = network.roi_heads.described(features, [boxes.to(images.tensor)], images.image_sizes)
    return vectors.cpu()
