"""Gradients of strided 1 x 1 convolutions that are right on every processor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: From this many input channels on the gradients are right whatever the processor, the map and the threads.
ENOUGH_CHANNELS = 16


def guard_strided(network: nn.Module) -> None:
    """Let narrow strided 1 x 1 convolutions see a contiguous input while they learn.

    oneDNN's gradient for the weights of an ungrouped 1 x 1 convolution with a stride writes past its workspace where
    the input is ``channels_last`` and has few channels: fewer than 8 with AVX2, fewer than 16 with AVX-512
    (uxlfoundation/oneDNN issue 6035). It crashes, hangs, or gives wrong gradients without a word. Another layout of
    the input takes another path, and costs a copy of a map that is small by its nature. Nothing changes where no
    gradient is asked for.

    Args:
        network: Changed in place; its copies are guarded with it. Guarding twice is guarding once.
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
    # a map of one channel has both layouts at once, and `contiguous` would return it as it is
    return (inputs[0].clone(memory_format=torch.contiguous_format),)
