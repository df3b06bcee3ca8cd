"""A learned similarity of two boxes from the cosine similarities of their cells."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from objemb import checks
from objemb.disk import write_whole
from objemb.ops.transport import transport
from objemb.weights.read import UnreadableWeightsError

#: Key of the settings in the metadata of a file.
SETTINGS = "cell_votes"
#: What is known of a cell: its best and second best cosine, their mean over the other box, its mass and gain in the
#: transport, and its similarity to the dustbin.
FACTS = 6


class CellVotes(nn.Module):
    """Counts votes of cells, weighted by a learned network: a logit for two boxes showing the same object.

    ::

        cosines ──┬── dustbin of each cell ── optimal transport ──┐
                  └── best matches of each cell ──────────────────┴── votes ── mean and maximum of both boxes ── logit

    The idea is that of ELViS (arXiv 2603.28603, ICLR 2026): a network that only sees similarities, not descriptors, has
    few parameters and can be used with other descriptors and domains than it was trained for. The transport is that of
    Sarlin et al., "SuperGlue", CVPR 2020, with a dustbin that is predicted for each cell. The order of cells does not
    matter.

    Args:
        width: Units of each layer; 160 gives 105,000 parameters.
        size: Side of a box in pixels when it enters the network of the cells; recorded with the weights.
        temperature: Of the transport.
        iterations: Of the transport.
    """

    def __init__(self, *, width: int = 160, size: int = 225, temperature: float = 0.1, iterations: int = 5) -> None:
        super().__init__()
        self.width, self.size = checks.whole("width", width), checks.whole("size", size)
        self.temperature = checks.positive("temperature", temperature)
        self.iterations = checks.whole("iterations", iterations)
        self.dustbin = nn.Sequential(nn.Linear(3, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))
        self.votes = nn.Sequential(nn.Linear(FACTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.count = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.logit = nn.Linear(width, 1)

    def forward(self, cosines: Tensor) -> Tensor:
        """Logits float32 ``(H,)`` of pairs of boxes with ``n`` and ``m`` cells, from float32 ``(H, n, m)``."""
        turned = cosines.transpose(1, 2)
        matches = [_matches(cosines), _matches(turned)]
        down, across = (self.dustbin(known).squeeze(2) for known in matches)
        plan = transport(cosines, (down, across), self.temperature, self.iterations)
        sides = zip((cosines, turned), matches, (plan, plan.transpose(1, 2)), (down, across), strict=True)
        counted = []
        for similarities, known, masses, dustbins in sides:
            shares = masses * max(cosines.shape[1:])  # the mass of a cell is 1
            gains = (shares * (similarities - dustbins[:, :, None])).sum(dim=2)
            votes = self.votes(torch.cat([known, torch.stack([shares.sum(dim=2), gains, dustbins], dim=2)], dim=2))
            counted.append(self.count(torch.cat([votes.mean(dim=1), votes.amax(dim=1)], dim=1)))
        logits: Tensor = self.logit(counted[0] + counted[1]).squeeze(1)
        return logits

    def save(self, file: Path) -> None:
        """Write settings and weights to a file of safetensors, atomically."""
        settings = {
            "width": self.width, "size": self.size, "temperature": self.temperature, "iterations": self.iterations
        }  # fmt: skip
        state = {name: values.detach().cpu().contiguous() for name, values in self.state_dict().items()}
        write_whole(file, save(state, {SETTINGS: json.dumps(settings)}))

    @staticmethod
    def load(file: str | Path) -> CellVotes:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            UnreadableWeightsError: It was not written by :meth:`save`, or is damaged.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"weights: expected a file of the task match_cells, found none at {file}")
        try:
            with safe_open(file, "pt") as opened:
                settings = json.loads((opened.metadata() or {})[SETTINGS])
                votes = CellVotes(**settings)
                votes.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UnreadableWeightsError(
                f"{file}: expected weights of the task match_cells, found another or a damaged file "
                f"({type(error).__name__}: {error})"
            ) from error
        return votes.eval().requires_grad_(False)


def _matches(cosines: Tensor) -> Tensor:
    """The best, the second best and the mean cosine of each of the ``n`` cells, ``(H, n, 3)``; of a single one the best
    is the second best, too."""
    best = cosines.topk(min(2, cosines.shape[2]), dim=2).values
    return torch.stack([best[..., 0], best[..., -1], cosines.mean(dim=2)], dim=2)
