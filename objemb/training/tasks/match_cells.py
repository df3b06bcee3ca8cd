"""A re-ranker that sees the similarities of the cells of two boxes, trained on pairs of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.extractors.crop import Crop
from objemb.models.build import load_model
from objemb.models.model import Model
from objemb.ops.batches import batched
from objemb.registry import plugin
from objemb.rerank._cell_votes import CellVotes
from objemb.rerank._cells import box_cells, cell_network
from objemb.training.data.base import Example, Examples
from objemb.training.object_dataset import ObjectDataset, numbers_of_items
from objemb.training.task import Task

#: Boxes that pass through the network together, and rows of pairs that are compared together.
BATCH = 16
#: The trained weights in the folder of a run.
WEIGHTS = "match.safetensors"


@plugin
class MatchCells(Task):
    """Trains the re-ranker ``cell_votes`` for a model.

    ::

        boxes of a batch ──── cells ──┐
                                      ├── cosines of all pairs ── CellVotes ── logits ── softmax over each row
        a partner of each ─── cells ──┘

    A partner is a box of the same instance in another photo. Each box has to prefer its own partner to those of the
    others (InfoNCE, van den Oord et al. 2018); partners of the same instance are left out of a row. The cells are those
    that the re-ranker computes: boxes are cut out and pass through the frozen network of the model, and are whitened as
    its vectors are. They are computed once and kept, in half precision.

    The trained model is the given one; the weights of the re-ranker are in ``match.safetensors`` of the run's folder,
    for ``--rerank cell_votes,weights=RUN/match.safetensors``.

    Args:
        model: A model folder with a network that describes boxes.
        data: Labelled boxes; those whose instance occurs in one photo only are not used.
        validation: Labelled boxes of *other* instances. None for no validation.
        validation_boxes: Number of them that are compared with each other, evenly spaced.
        size: Side of a box in pixels when it enters the network.
        width: See :class:`~objemb.rerank._cell_votes.CellVotes`.

    Raises:
        ValueError: The model describes no boxes, or no instance of the data occurs in two photos.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        data: Examples,
        validation: Examples | None = None,
        validation_boxes: int = 100,
        size: int = 129,
        width: int = 160,
    ) -> None:
        super().__init__()
        self.examples: ObjectDataset = ObjectDataset(data)
        if not any(len(self.examples.partners(n)) for n in range(len(self.examples))):
            raise ValueError("data: expected boxes of an instance in at least 2 photos, found none")
        self.validation = None if validation is None else ObjectDataset(validation)
        self.validation_boxes = checks.whole("validation_boxes", validation_boxes, 2)
        self.votes = CellVotes(width=width, size=size)
        self._model = load_model(model)
        self._kept: dict[tuple[int, int], Tensor] = {}

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """``match``, a float32 scalar: mean cross-entropy of the rows; 0 for fewer than two boxes with partners."""
        numbers = [n for example in batch for n in numbers_of_items(example) if len(self.examples.partners(n))]
        partners = [int(_drawn(self.examples.partners(n))) for n in numbers]
        if len(numbers) < 2:
            return {"match": self.votes.logit.weight.sum() * 0.0}
        logits = self._logits(self._cells(self.examples, numbers), self._cells(self.examples, partners))
        labels = self.examples.labels[numbers]
        same = (labels[:, None] == labels) & ~torch.eye(len(numbers), dtype=torch.bool)
        logits = logits.masked_fill(same.to(logits.device), -torch.inf)
        return {"match": F.cross_entropy(logits, torch.arange(len(numbers), device=logits.device))}

    def validate(self) -> dict[str, float]:
        """``P@1`` of boxes that are searched for among each other, those of their own photo left out, and
        ``P@1 of the mean cosine`` of their cells, which is that of averaged cells."""
        if self.validation is None:
            return {}
        items = self.validation
        numbers = torch.linspace(0, len(items) - 1, min(self.validation_boxes, len(items))).long()
        cells = self._cells(items, numbers.tolist())
        labels, photos = items.labels[numbers], items.photos[numbers]
        relevant, own = labels[:, None] == labels, photos[:, None] == photos
        asked = (relevant & ~own).any(dim=1)
        if not bool(asked.any()):
            return {}
        means = cells.mean(dim=1)
        figures = {"P@1": self._logits(cells, cells).cpu(), "P@1 of the mean cosine": (means @ means.T).cpu()}
        return {
            name: float(relevant[asked, scores.masked_fill(own, -torch.inf).argmax(dim=1)[asked]].float().mean())
            for name, scores in figures.items()
        }

    def model(self) -> Model:
        """The given model, which was not trained."""
        return self._model

    def finish(self, folder: Path) -> None:
        """Write the weights of the re-ranker."""
        self.votes.save(folder / WEIGHTS)

    def _logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``(N, M)`` of all pairs of boxes with cells ``(N, n, D)`` and ``(M, n, D)``."""
        rows = []
        for some in first.split(BATCH):
            cosines = torch.einsum("ind,jmd->ijnm", some, second)
            rows.append(self.votes(cosines.flatten(0, 1)).view(len(some), len(second)))
        return torch.cat(rows)

    @torch.no_grad()
    def _cells(self, items: ObjectDataset, numbers: Sequence[int]) -> Tensor:
        """Unit vectors ``(N, n, D)`` of the cells of items, on the device of the task."""
        describer = self._model.vector_describer("match_cells")
        unknown = [n for n in dict.fromkeys(numbers) if (id(items), n) not in self._kept]
        for some in batched(unknown, BATCH):
            photos = [items[n].photo for n in some]
            boxes = [(0.0, 0.0, float(photo.size[1]), float(photo.size[0])) for photo in photos]
            network = cell_network(describer, "match_cells")
            cells = box_cells(photos, boxes, Crop(size=self.votes.size), network, describer)
            self._kept.update({(id(items), n): own.half() for n, own in zip(some, cells, strict=True)})
        return torch.stack([self._kept[id(items), n] for n in numbers]).float().to(self.device)


def _drawn(numbers: Tensor) -> Tensor:
    return numbers[torch.randint(len(numbers), (1,))]
