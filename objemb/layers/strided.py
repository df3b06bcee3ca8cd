"""Correct gradients of strided 1 x 1 convolutions on every processor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: From this number of input channels on, gradients are correct on all processors, for all maps and numbers of threads.
ENOUGH_CHANNELS = 16


def guard_strided(network: nn.Module) -> None:
    """Give narrow strided 1 x 1 convolutions a contiguous input in training.

    oneDNN's gradient for the weights of an ungrouped 1 x 1 convolution with a stride writes beyond its workspace if the
    input is ``channels_last`` and has few channels: fewer than 8 with AVX2, fewer than 16 with AVX-512
    (uxlfoundation/oneDNN issue 6035). It crashes, hangs, or silently gives wrong gradients. A contiguous input avoids
    this code, at the cost of copying a small map. Nothing changes without gradients.

    Args:
        network: Changed in place; copies are guarded as well. Guarding twice has no further effect.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _needs_it(module) and not _is_guarded(module):
            module.register_forward_pre_hook(_contiguous_input)


def _needs_it(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.groups == 1
        and layer.in_channels < ENOUGH_CHANNELS
    )


def _is_guarded(layer: nn.Conv2d) -> bool:
    return _contiguous_input in layer._forward_pre_hooks.values()


def _contiguous_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
    if not (torch.is_grad_enabled() and inputs[0].device.type == "cpu"):
        return None
    # a map of one channel has both layouts at once, so that `contiguous` would not copy it
    return (inputs[0].clone(memory_format=torch.contiguous_format),)
