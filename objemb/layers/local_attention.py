"""The weight of every cell of a feature map, predicted from its activations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import softplus

from objemb import checks
from objemb.checks import NotFittedError


class LocalAttention(nn.Module):
    """``softplus(w_2 relu(W_1 x + b_1) + b_2)`` of activations x (Noh, Araujo, Sim, Weyand and Han, "Large-scale image
    retrieval with attentive deep local features", ICCV 2017, section 3.2).

    The last layer is initialised with zeros, so that all cells have the same weight before training.

    Args:
        channels: C of the map.
        hidden: Units of the hidden layer; 512 in the paper.
    """

    def __init__(self, channels: int, hidden: int = 512) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, checks.whole("hidden", hidden), 1)
        self.out = nn.Conv2d(hidden, 1, 1)
        nn.init.kaiming_uniform_(self.hidden.weight, nonlinearity="relu")
        for start in (self.hidden.bias, self.out.weight, self.out.bias):
            if start is not None:
                nn.init.zeros_(start)

    def forward(self, maps: Tensor) -> Tensor:
        """float ``(B, C, h, w)`` to weights ``(B, h, w)``, above 0."""
        return softplus(self.out(self.hidden(maps).relu())).squeeze(1)

    def check_trained(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` if all cells still have the same weight."""
        if not bool(self.out.weight.any()):
            raise NotFittedError(
                "attention: expected a trained one, found an untrained one; `objemb train attend_local` trains it"
            )
