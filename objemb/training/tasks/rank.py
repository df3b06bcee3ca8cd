"""A descriptor network, learned by putting what shows the same object before everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators.sum import Sum
from objemb.describers.base import Describer
from objemb.describers.capabilities import PhotoEmbedder
from objemb.evaluation.instances import instance_retrieval
from objemb.losses.ranking import contrastive_loss, triplet_loss
from objemb.models.model import Model
from objemb.models.state import without_weights
from objemb.ops.batches import batched
from objemb.registry import plugin
from objemb.structures import Photo
from objemb.training.augment import jitter_photo, mirrored
from objemb.training.data.base import Example, Examples
from objemb.training.mining import hardest_negatives
from objemb.training.object_dataset import ITEMS, ObjectDataset
from objemb.training.optimizer import groups_by_factor
from objemb.training.pictures import neighbours
from objemb.training.task import Task

LOSSES = {"triplet": triplet_loss, "contrastive": contrastive_loss}
#: Objects that are described together.
BATCH = 16


@plugin
class Rank(Task):
    """Trains a descriptor network end to end, so that items of one identity are nearer to each other than to others.

    ::

        items of a batch: queries ──┬── a random positive each ──────────────────────────┐
                                    │                                                    ├── embed ── loss
        pool, described every       └── the most similar items of other identities each ─┘
        ``refresh`` steps ──────────────┘

    An item is a labelled box, cut out and described as an image of its own: its regions are found, projected and summed
    up as :meth:`~objemb.describers.capabilities.PhotoEmbedder.embed_photos` does. The task follows Gordo et al.,
    "End-to-end learning of deep visual representations for image retrieval", IJCV 2017: a network that can tell classes
    apart (the task ``classify``), PCA as first weights of the projection, then triplets with mined negatives. Negatives
    are mined as Radenovic et al. (TPAMI 2019) do, see :func:`objemb.training.mining.hardest_negatives`; queries are
    compared by the vectors that they have in the step itself, the pool by those of its last refresh. Normalisation
    layers keep their statistics.

    Parts that have to be fitted before use learn from the training items at the start. The pool, its vectors and its
    age are part of the state, so that a run that was interrupted goes on with the same negatives.

    Args:
        describer: A ``rmac_network``; it learns at the first of its ``scales``.
        data: Labelled boxes to learn from; boxes without an identity are not used. Items of an identity that is in one
            photo only are negatives, but no queries.
        validation: Labelled boxes of *other* identities, each an item that is searched for among the others: ``mAP``
            and ``P@1``. None for no figures.
        loss: ``triplet`` or ``contrastive``, see :mod:`objemb.losses.ranking`.
        margin: Of the loss; 0.1 for triplets and 0.7 for contrastive pairs by default, as in the papers.
        negatives: For each query, all of different identities.
        pool: Number of items that negatives are mined from; all of them if there are fewer.
        refresh: Steps after which another pool is drawn and described.
        factors: Patterns of names of parameters of ``backbone``, ``pooling`` and ``projection``, and a factor on their
            learning rate: ``{"backbone.*": 0}`` learns the projection alone.
        fit_items: ObjectDataset that fitted parts learn from, evenly spread.
        colour_jitter: Strength, see :func:`objemb.training.augment.jitter_colours`.
        flip: Whether items are mirrored at random; not where writing tells objects apart.

    Raises:
        TypeError: Another kind of describer.
        ValueError: Data without two items of one identity, or of one identity only; a pattern without a parameter,
            values out of range, or too few items for the projection's ``dim``.
    """

    pool_items: Tensor
    pool_vectors: Tensor
    age: Tensor

    def __init__(
        self,
        *,
        describer: Describer,
        data: Examples,
        validation: Examples | None = None,
        loss: str = "triplet",
        margin: float | None = None,
        negatives: int = 5,
        pool: int = 2000,
        refresh: int = 100,
        factors: Mapping[str, float] = MappingProxyType({}),
        fit_items: int = 1000,
        colour_jitter: float = 0.2,
        flip: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(describer, PhotoEmbedder):
            raise TypeError(f"describer: expected a rmac_network to be trained, found {type(describer).__name__}")
        self.describer = describer
        self.examples: ObjectDataset = _rankable(ObjectDataset(data))
        self.validation = None if validation is None else ObjectDataset(validation)
        self.loss = LOSSES[checks.one_of("loss", loss, tuple(LOSSES))]
        self.margin = {} if margin is None else {"margin": checks.positive("margin", margin)}
        self.negatives, self.refresh = checks.whole("negatives", negatives), checks.whole("refresh", refresh)
        self.flip = checks.flag("flip", flip)
        self.colour_jitter = checks.between("colour_jitter", colour_jitter, 0, 1)
        self._fit_parts(checks.whole("fit_items", fit_items))
        self.describer.requires_grad_(False)
        self._groups = groups_by_factor(describer.learnable(), factors)
        for group in self._groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        size = min(checks.whole("pool", pool), len(self.examples))
        self.register_buffer("pool_items", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pool_vectors", torch.zeros(size, describer.raw_dim))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self._described: Tensor | None = None

    @staticmethod
    def learned(settings: Mapping[str, object]) -> tuple[str, ...]:
        """See :meth:`Task.learned`."""
        del settings
        return ("describer.backbone",)

    def parameter_groups(self) -> list[dict[str, object]]:
        """The parameters that learn by their factor on the learning rate."""
        return self._groups

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """``ranking``, a float32 scalar: the loss of the items of a batch that have a partner, each with a positive and
        mined negatives; 0 without any.
        """
        if int(self.age) % self.refresh == 0:
            self._draw_pool()
        self.age += 1
        drawn = [(n, _one_of(self.examples.partners(n)), e) for e in batch for n in _numbers(e)]
        asking = [(number, positive, e) for number, positive, e in drawn if positive is not None]
        queries = self.describer.embed_photos([self._changed(e) for _, _, e in asking])
        positives = self._embed_items([positive for _, positive, _ in asking])
        mined = self._mine(queries.detach(), torch.tensor([number for number, _, _ in asking], dtype=torch.int64))
        owners, places = (mined >= 0).nonzero(as_tuple=True)
        negatives = self._embed_items(mined[owners, places].tolist())
        return {"ranking": self.loss(queries, positives, negatives, owners.to(queries.device), **self.margin)}

    def validate(self) -> dict[str, float]:
        """``mAP`` and ``P@1`` of every item of the validation set as a query."""
        if self.validation is None:
            return {}
        self._described = self._vectors(self.validation, range(len(self.validation))).cpu()
        figures = instance_retrieval(self._described, self.validation.labels, self.validation.photos)
        return {"mAP": figures["mAP"], "P@1": figures["P@1"]}

    def pictures(self) -> dict[str, Tensor]:
        """``neighbours``: some items of the validation set and what is most like them."""
        if self.validation is None or self._described is None:
            return {}
        items = self.validation
        return {"neighbours": neighbours(items, self._described, items.labels, torch.arange(len(items)))}

    def model(self) -> Model:
        """The describer as it was trained; it indexes a vector for each image, the sum of its regions."""
        aggregator = {"name": "sum", "whole_image": self.describer.whole_image}
        settings = {"describer": without_weights(self.settings["describer"]), "aggregator": aggregator}
        return Model(self.describer, Sum(whole_image=self.describer.whole_image), settings, {}, str(self.device))

    def _fit_parts(self, count: int) -> None:
        """Let what has not learned yet learn from ``count`` items."""
        numbers = torch.linspace(0, len(self.examples) - 1, min(count, len(self.examples))).long().tolist()
        for name, part in self.describer.fitted_parts().items():
            if not part.is_fitted:
                photos = ([self.examples[n].photo for n in some] for some in batched(numbers, BATCH))
                vectors = torch.cat([self.describer.samples(name, some) for some in photos])
                part.fit(vectors, fitted_on=f"{len(vectors)} vectors of {len(numbers)} training items")

    @torch.no_grad()
    def _draw_pool(self) -> None:
        self.pool_items.copy_(torch.randperm(len(self.examples))[: len(self.pool_items)].sort().values)
        self.pool_vectors.copy_(self._vectors(self.examples, self.pool_items.tolist()))

    def _mine(self, queries: Tensor, numbers: Tensor) -> Tensor:
        """int64 ``(Q, negatives)``: for queries, which are items of these ``numbers``, the items; -1 for none."""
        labels, pool = self.examples.labels, self.pool_items.cpu()
        device = queries.device
        rows = hardest_negatives(
            queries, labels[numbers].to(device), self.pool_vectors, labels[pool].to(device), self.negatives
        ).cpu()
        return pool[rows].where(rows >= 0, -1)

    def _embed_items(self, numbers: Sequence[int]) -> Tensor:
        """Unit vectors ``(N, D)`` of training items, changed at random, with a gradient."""
        return self.describer.embed_photos([self._changed(self.examples[n]) for n in numbers])

    def _changed(self, example: Example) -> Photo:
        if self.flip and bool(torch.rand(()) < 0.5):
            example = mirrored(example)
        return jitter_photo(example, self.colour_jitter).photo

    @torch.no_grad()
    def _vectors(self, items: ObjectDataset, numbers: Sequence[int]) -> Tensor:
        """Unit vectors ``(N, D)`` of items as they are."""
        nothing = self.describer.embed_photos([])
        parts = (self.describer.embed_photos([items[n].photo for n in some]) for some in batched(numbers, BATCH))
        return torch.cat([nothing, *parts])


def _rankable(items: ObjectDataset) -> ObjectDataset:
    counts = items.labels.bincount()
    if len(counts[counts > 0]) < 2 or not any(len(items.partners(n)) for n in range(len(items))):
        raise ValueError(
            "data: expected boxes of at least 2 instances, one of them in at least 2 photos, "
            f"found {len(items)} boxes of {int((counts > 0).sum())} instances"
        )
    return items


def _numbers(item: Example) -> list[int]:
    """The number of an item; none of an example that is no item."""
    numbers = item.regions.array(ITEMS)
    return [] if numbers is None else numbers.tolist()


def _one_of(numbers: Tensor) -> int | None:
    """One of some numbers at random, None of none."""
    return int(numbers[torch.randint(len(numbers), ())]) if len(numbers) else None
