"""Augmentations that preserve the identity of an object. By default they draw from torch's global generator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.images.pixels import LUMA
from objemb.ops.boxes import clip
from objemb.ops.tensors import as_tensor
from objemb.structures import Regions
from objemb.training.data.base import Example


def jitter_boxes(regions: Regions, strength: float, generator: torch.Generator | None = None) -> Regions:
    """Regions whose boxes are perturbed at random, like the inexact boxes of a detector.

    Centres move by up to ``strength`` times the sides, and each side is scaled by a factor between ``exp(-strength)``
    and ``exp(strength)``; boxes are clipped to the image.
    """
    if checks.between("box_jitter", strength, 0, 1) == 0 or len(regions) == 0:
        return regions
    moves, stretches = ((2 * torch.rand(len(regions), 2, generator=generator) - 1) * strength for _ in range(2))
    low, high = as_tensor(regions.boxes).split(2, dim=1)
    centres, halves = (low + high) / 2 + moves * (high - low), (high - low) / 2 * stretches.exp()
    return Regions(clip(torch.cat([centres - halves, centres + halves], dim=1), regions.size), regions.size)


def jitter_colours(images: Tensor, strength: float) -> Tensor:
    """Scale each image's brightness, contrast and saturation by factors from ``1 - strength`` to ``1 + strength``.

    Args:
        images: float ``(N, 3, h, w)``, RGB, 0 to 1.
        strength: 0 to 1.

    Returns:
        The same shape, clipped to 0 to 1.
    """
    if checks.between("colour_jitter", strength, 0, 1) == 0 or len(images) == 0:
        return images
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1) - 1)
    brightness, contrast, saturation = factors.to(images)
    brighter = images * brightness
    grey = (brighter * torch.tensor(LUMA).to(images)[:, None, None]).sum(dim=1, keepdim=True)
    level = grey.mean(dim=(2, 3), keepdim=True)
    coloured = grey + (brighter - grey) * saturation
    changed: Tensor = (level + (coloured - level) * contrast).clamp(0, 1)
    return changed


def flip_some(images: Tensor) -> Tensor:
    """Mirror each image of ``(N, 3, h, w)`` left to right with probability 0.5; text becomes unreadable."""
    mirrored = (torch.rand(len(images), 1, 1, 1) < 0.5).to(images.device)
    return torch.where(mirrored, images.flip(3), images)


def jitter_photo(example: Example, strength: float) -> Example:
    """An example whose photo is changed by :func:`jitter_colours`."""
    if strength == 0:
        return example
    pixels = jitter_colours(as_tensor(example.photo.pixels)[None].float() / 255, strength)[0]
    return Example(replace(example.photo, pixels=(pixels * 255).round().byte().numpy()), example.regions)


def mirrored(example: Example) -> Example:
    """An example mirrored left to right, with its boxes and masks."""
    photo, regions = example.photo, example.regions
    x1, y1, x2, y2 = regions.boxes.T
    boxes = np.stack([photo.size[1] - x2, y1, photo.size[1] - x1, y2], axis=1)
    masks = regions.array("masks")
    extras = regions.extras if masks is None else {**regions.extras, "masks": masks[:, :, ::-1]}
    return Example(replace(photo, pixels=photo.pixels[:, :, ::-1].copy()), replace(regions, boxes=boxes, extras=extras))
