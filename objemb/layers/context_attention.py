"""The weight of a region, predicted from its features and from those of the whole image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from objemb import checks

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": softplus}


class ContextAttention(nn.Module):
    """``softplus(W_c g(W_r [m_r, m_I] + b_r) + b_c)``: the context-aware attention of Kim and Yoon, "Regional attention
    based deep feature for image retrieval", BMVC 2018.

    ``m_r`` and ``m_I`` are the means of the feature map over a region and over the image. The last layer is initialised
    with zeros, so that all regions have the same weight before training.

    Args:
        channels: C of the feature map.
        hidden: Units of the hidden layer.
        activation: g: ``tanh`` or ``softplus``. The authors' code uses the latter in training and the former in
            testing; here, it is the same in both.
    """

    def __init__(self, channels: int, hidden: int = 64, activation: str = "tanh") -> None:
        super().__init__()
        self.activation = checks.one_of("activation", activation, tuple(ACTIVATIONS))
        self.hidden = nn.Linear(2 * channels, checks.whole("hidden", hidden))
        self.out = nn.Linear(hidden, 1)
        nn.init.xavier_uniform_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, regions: Tensor, images: Tensor) -> Tensor:
        """Weights of regions.

        Args:
            regions: float ``(M, C)``, ``m_r``.
            images: float ``(M, C)``, ``m_I`` of the image that each region is part of.

        Returns:
            float ``(M,)``, above 0.
        """
        hidden = ACTIVATIONS[self.activation](self.hidden(torch.cat([regions, images], dim=1)))
        return softplus(self.out(hidden)).squeeze(1)
