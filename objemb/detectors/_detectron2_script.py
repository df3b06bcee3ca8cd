"""TorchScript programs of Detectron2 networks with an embedding head.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.export import scripting_with_instances
from detectron2.modeling import Backbone
from detectron2.structures import Boxes
from torch import Tensor, nn

from objemb.detectors._detectron2_heads import WithEmbeddings
from objemb.detectors._detectron2_trunk import lower_maps, with_trunk
from objemb.heads.base import Head
from objemb.layers.folded import unfolded

#: Fields of ``Instances`` in the networks that :func:`scripted` takes.
FIELDS = {
    **dict.fromkeys(("objectness_logits", "scores", "pred_classes", "pred_masks", "pred_embeddings"), Tensor),
    **dict.fromkeys(("proposal_boxes", "pred_boxes"), Boxes),
}
#: Side of the example that layers are traced with, in pixels; they are convolutions, for which any size will do.
EXAMPLE = 64


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    """See :func:`objemb.detectors.detectron2_rcnn.scripted`."""
    found = getattr(network, "roi_heads", None)
    if not isinstance(found, WithEmbeddings):
        raise TypeError(f"network: expected one with an embedding head, found {type(found).__name__}")
    if network.training:
        raise ValueError("network: expected one in eval mode, found training mode; call eval()")
    copied = copy.deepcopy(network)
    heads: Any = copied.get_submodule("roi_heads")
    backbone = copied.get_submodule("backbone")
    device = next(network.parameters()).device
    pixels = torch.zeros(1, 3, EXAMPLE, EXAMPLE, device=device)
    with unfolded():
        if heads.embedding_object_side > 0:
            names = list(heads.embedding_in_features)
            heads.embedding_multiple = heads.window_multiple()
            heads.embedding_lower = _Traced(_Lower(with_trunk(backbone), names), pixels)
        heads.embedding_head = _ScriptedHead(heads.embedding_head, device)
        copied.backbone = _TracedBackbone(backbone, pixels)
    program: torch.jit.ScriptModule = scripting_with_instances(copied, FIELDS)
    return program


class _Lower(nn.Module):
    """From pixels to the levels of a head."""

    def __init__(self, backbone: Backbone, names: list[str]) -> None:
        super().__init__()
        self.backbone, self.names = backbone, names

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = lower_maps(self.backbone, pixels, self.names)
        return [maps[name] for name in self.names]


class _Traced(nn.Module):
    """A module that is traced, within one that is compiled."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.traced = torch.jit.trace(module, example, strict=False, check_trace=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.traced(pixels)
        return maps


class _TracedBackbone(nn.Module):
    """A backbone that is traced, with what its network reads of it."""

    def __init__(self, backbone: Backbone, example: Tensor) -> None:
        super().__init__()
        self.size_divisibility = int(backbone.size_divisibility)
        self.square_size = int(backbone.padding_constraints.get("square_size", 0))
        self.traced = torch.jit.trace(backbone, example, strict=False, check_trace=False)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """See ``Backbone.padding_constraints``."""
        return {"square_size": self.square_size}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.traced(pixels)
        return maps


class _ScriptedHead(nn.Module):
    """A head of objemb whose layers are traced: see :meth:`objemb.heads.base.Head.forward`."""

    sampled_rois: Callable[[list[Tensor], Tensor], Tensor] = Head.sampled_rois  # type: ignore[assignment]  # unbound

    def __init__(self, head: Head, device: torch.device) -> None:
        super().__init__()
        self.samples, self.sampling_ratio = head.samples, head.sampling_ratio
        self.strides, self.anchor, self.dim = head.strides, head.anchor, head.dim
        example = torch.zeros(2, sum(head.channels), head.samples, head.samples, device=device)
        self.layers = torch.jit.trace_module(_Embed(head), {"forward": example}, check_trace=False)

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        numbered: list[Tensor] = []
        for i, of_image in enumerate(boxes):
            numbered.append(F.pad(of_image.float(), (1, 0), value=float(i)))
        return F.normalize(self.layers(self.sampled_rois(features, torch.cat(numbered))).float(), dim=1)


class _Embed(nn.Module):
    """From samples to vectors."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, samples: Tensor) -> Tensor:
        return self.head.embed(samples)
