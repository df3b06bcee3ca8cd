"""A descriptor network, trained with a ranking loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from objemb import checks
from objemb.aggregators.sum import Sum
from objemb.describers.base import Describer
from objemb.describers.capabilities import PhotoEmbedder
from objemb.evaluation.instances import instance_retrieval
from objemb.layers.fitted import Fitted
from objemb.losses.ranking.base import RankingBatch, RankingLoss
from objemb.models.build import load_model
from objemb.models.model import Model
from objemb.models.state import without_weights
from objemb.ops.batches import batched
from objemb.registry import plugin
from objemb.structures import Photo
from objemb.training.augment import jitter_photo, mirrored
from objemb.training.data.base import Example, Examples
from objemb.training.mining import hardest_negatives
from objemb.training.object_dataset import ObjectDataset, numbers_of_items
from objemb.training.optimizer import ParameterGroup, groups_by_factor, parameters_beside
from objemb.training.pictures import neighbours
from objemb.training.task import Task

#: Objects per batch when describing.
BATCH = 16


@plugin
class Rank(Task):
    """Trains a descriptor network end to end, so that items of one identity are closer to each other than to others.

    ::

        items of a batch: queries ──┬── random positives each ───────────────────────────┐
                                    │                                                    ├── embed ── loss
        pool, described every       └── the most similar items of other identities each ─┘
        ``refresh`` steps ──────────────┘

    An item is a labelled box, cut out and described as an image of its own by
    :meth:`~objemb.describers.capabilities.PhotoEmbedder.embed_photos`. The task follows Gordo et al., "End-to-end
    learning of deep visual representations for image retrieval", IJCV 2017: a network pretrained for classification
    (the task ``classify``), PCA as initial weights of the projection, then triplets with mined negatives. Negatives
    are mined after Radenovic et al. (TPAMI 2019), see :func:`objemb.training.mining.hardest_negatives`: current vectors
    of the queries are compared with the pool's vectors of its last refresh. Normalisation layers keep their statistics.

    With ``chunk``, the vectors of a step are computed in parts whose activations are discarded, and computed once more,
    part by part, when the gradient of the loss with respect to the vectors is known. This is the multi-stage
    back-propagation of Revaud et al., "Learning with average precision: training image retrieval with a listwise loss",
    ICCV 2019, section 3: memory holds the activations of one part, and the gradient is that of the whole batch, for
    a second forward pass.

    Parts that need fitting are fitted to training items at the start, or, with ``start``, are those of a network that
    was trained before, as when ranking over proposals goes on from the projection of a ranking over the grid. The pool,
    its vectors and its age are part of the state, so that a resumed run uses the same negatives.

    Args:
        describer: A ``rmac_network``; it is trained at the first of its ``scales``. Of a detector on whose trunk it is,
            only the trunk is trained.
        data: Labelled boxes to train on; boxes without an identity are not used. Items whose identity occurs in one
            photo only are used as negatives, but not as queries.
        validation: Labelled boxes of *other* identities; each is a query for the others, which gives ``mAP`` and
            ``P@1``. None for no validation.
        ranking_loss: A plug-in of :mod:`objemb.losses.ranking`: ``triplet``, ``contrastive``, ``average_precision``.
        positives: Number of positives per query, drawn from all items of its identity in other photos; fewer where
            there are not as many.
        negatives: Number of negatives per query, all of different identities; 0 for none, if the loss finds them among
            the items of a batch.
        pool: Number of items from which negatives are mined, at most all items.
        refresh: Number of steps after which a new pool is drawn and described.
        factors: Patterns of parameter names of ``backbone``, ``pooling`` and ``projection``, each with a factor on the
            learning rate: ``{"backbone.*": 0}`` trains only the projection.
        fit_items: Number of items, evenly spaced over the data, to which parts are fitted at the start.
        start: Model folder of a network with the same parts, which are where training starts; None to fit them. The
            weights of the backbone are those of its settings.
        chunk: Number of photos whose activations are in memory at a time; None for all.
        resolutions: Factors on the size at which photos enter the network; each photo of a step gets one at random, and
            keeps its aspect ratio. The pool and the validation set are described at factor 1.
        colour_jitter: Strength, see :func:`objemb.training.augment.jitter_colours`.
        flip: Whether items are mirrored at random; unsuitable if objects differ by their lettering.

    Raises:
        TypeError: The describer is of another kind.
        FileNotFoundError: ``start`` is not a model folder.
        ValueError: The data have no two items of one identity, or only one identity; a pattern matches no parameter; a
            value is out of range; there are too few items for the projection's ``dim``; or the parts of ``start`` have
            other names or shapes.
    """

    pool_items: Tensor
    pool_vectors: Tensor
    age: Tensor

    def __init__(
        self,
        *,
        describer: Describer,
        data: Examples,
        ranking_loss: RankingLoss,
        validation: Examples | None = None,
        positives: int = 1,
        negatives: int = 5,
        pool: int = 2000,
        refresh: int = 100,
        factors: Mapping[str, float] = MappingProxyType({}),
        fit_items: int = 1000,
        start: str | Path | None = None,
        chunk: int | None = None,
        resolutions: Sequence[float] = (1.0,),
        colour_jitter: float = 0.2,
        flip: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(describer, PhotoEmbedder):
            raise TypeError(f"describer: expected a rmac_network to be trained, found {type(describer).__name__}")
        self.describer = describer
        self.examples: ObjectDataset = _rankable(ObjectDataset(data))
        self.validation = None if validation is None else ObjectDataset(validation)
        self.ranking_loss = ranking_loss
        self.positives, self.refresh = checks.whole("positives", positives), checks.whole("refresh", refresh)
        self.negatives = checks.whole("negatives", negatives, 1 if ranking_loss.needs_negatives else 0)
        self.chunk = None if chunk is None else checks.whole("chunk", chunk)
        self.resolutions = tuple(
            checks.positive("resolutions", factor) for factor in checks.several("resolutions", resolutions)
        )
        self.flip = checks.flag("flip", flip)
        self.colour_jitter = checks.between("colour_jitter", colour_jitter, 0, 1)
        checks.whole("fit_items", fit_items)
        if start is not None:
            take_fitted_parts(describer, start)
        self._fit_parts(fit_items)
        self.describer.requires_grad_(False)
        beside = {f"backbone.{name}" for name in parameters_beside(describer.backbone)}
        self._groups = groups_by_factor(describer.learnable(), factors, beside)
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

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trained parameters by their factor on the learning rate."""
        return self._groups

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """``ranking``, a float32 scalar: loss of the items of a batch that have a partner in another photo, each with
        random positives and mined negatives; 0 without any.
        """
        if self.negatives and int(self.age) % self.refresh == 0:
            self._draw_pool()
        self.age += 1
        drawn = [
            (n, _some_of(self.examples.partners(n), self.positives), e) for e in batch for n in numbers_of_items(e)
        ]
        asking = [(number, positives, e) for number, positives, e in drawn if len(positives)]
        numbers = torch.tensor([number for number, _, _ in asking], dtype=torch.int64)
        queries = self._embed([self._changed(e) for _, _, e in asking])
        positives = torch.cat([torch.zeros(0, dtype=torch.int64), *(some for _, some, _ in asking)])
        positive_owners = torch.arange(len(asking)).repeat_interleave(
            torch.tensor([len(some) for _, some, _ in asking], dtype=torch.int64)
        )
        mined = self._mine(queries.detach(), numbers)
        negative_owners, places = (mined >= 0).nonzero(as_tuple=True)
        negatives = mined[negative_owners, places]
        items = torch.cat([numbers, positives, negatives])
        batch_vectors = RankingBatch(
            queries,
            self._embed_items(positives.tolist()),
            positive_owners.to(queries.device),
            self._embed_items(negatives.tolist()),
            negative_owners.to(queries.device),
            self.examples.labels[items].to(queries.device),
            items.to(queries.device),
        )
        return {"ranking": self.ranking_loss.loss(batch_vectors)}

    def validate(self) -> dict[str, float]:
        """``mAP`` and ``P@1`` with every item of the validation set as a query."""
        if self.validation is None:
            return {}
        self._described = self._vectors(self.validation, range(len(self.validation))).cpu()
        figures = instance_retrieval(self._described, self.validation.labels, self.validation.photos)
        return {"mAP": figures["mAP"], "P@1": figures["P@1"]}

    def pictures(self) -> dict[str, Tensor]:
        """``neighbours``: some items of the validation set and their nearest neighbours."""
        if self.validation is None or self._described is None:
            return {}
        items = self.validation
        return {"neighbours": neighbours(items, self._described, items.labels, torch.arange(len(items)))}

    def model(self) -> Model:
        """The trained describer with one vector per image, the sum of its regions."""
        aggregator = {"name": "sum", "whole_image": self.describer.whole_image}
        settings = {"describer": without_weights(self.settings["describer"]), "aggregator": aggregator}
        return Model(self.describer, Sum(whole_image=self.describer.whole_image), settings, {}, str(self.device))

    def _fit_parts(self, count: int) -> None:
        """Fit the unfitted parts to ``count`` items."""
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
        """int64 ``(Q, negatives)``: items mined for the queries, whose item numbers are ``numbers``; -1 for none."""
        if not self.negatives:
            return torch.zeros(len(queries), 0, dtype=torch.int64)
        labels, pool = self.examples.labels, self.pool_items.cpu()
        device = queries.device
        rows = hardest_negatives(
            queries, labels[numbers].to(device), self.pool_vectors, labels[pool].to(device), self.negatives
        ).cpu()
        return pool[rows].where(rows >= 0, -1)

    def _embed_items(self, numbers: Sequence[int]) -> Tensor:
        """Unit vectors ``(N, D)`` of randomly augmented training items, with gradients."""
        return self._embed([self._changed(self.examples[n]) for n in numbers])

    def _embed(self, photos: Sequence[Photo]) -> Tensor:
        """Unit vectors ``(N, D)`` with gradients, each at a random resolution; the activations of at most ``chunk``
        photos are kept."""
        embed, size = self.describer.embed_photos, self.chunk or max(1, len(photos))
        drawn = torch.randint(len(self.resolutions), (len(photos),)) if len(self.resolutions) > 1 else None
        rows, vectors = list[int](), [embed([])]
        for number, factor in enumerate(self.resolutions):
            own = range(len(photos)) if drawn is None else (drawn == number).nonzero().flatten().tolist()
            for some in batched(own, size):
                part = [photos[n] for n in some]
                vectors.append(
                    embed(part, factor=factor)
                    if len(photos) <= size
                    else checkpoint(embed, part, factor=factor, use_reentrant=False)
                )
                rows += some
        return torch.cat(vectors)[torch.tensor(rows, dtype=torch.int64).argsort()]

    def _changed(self, example: Example) -> Photo:
        if self.flip and bool(torch.rand(()) < 0.5):
            example = mirrored(example)
        return jitter_photo(example, self.colour_jitter).photo

    @torch.no_grad()
    def _vectors(self, items: ObjectDataset, numbers: Sequence[int]) -> Tensor:
        """Unit vectors ``(N, D)`` of items without augmentation."""
        nothing = self.describer.embed_photos([])
        parts = (self.describer.embed_photos([items[n].photo for n in some]) for some in batched(numbers, BATCH))
        return torch.cat([nothing, *parts])


def take_fitted_parts(describer: Describer, folder: str | Path) -> None:
    """Fill the fitted parts of a describer, such as its projection, with those of the model in ``folder``.

    Raises:
        FileNotFoundError: There is no model folder.
        ValueError: The parts of the two have other names or shapes, or those of the model are not fitted.
    """
    model = load_model(folder)
    theirs = model.describer.fitted_parts()
    for name, part in describer.fitted_parts().items():
        other = theirs.get(name)
        found = None if other is None or not other.is_fitted else _shapes(other)
        if other is None or found != _shapes(part):
            raise ValueError(f"start: expected a model with the fitted part {name} of {_shapes(part)}, found {found}")
        part.load_state_dict(other.state_dict())
        part.fitted_on = f"the training of {model.fingerprint}, which began from {other.fitted_on}"


def _shapes(part: Fitted) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in part.state_dict().items()}


def _rankable(items: ObjectDataset) -> ObjectDataset:
    counts = items.labels.bincount()
    if len(counts[counts > 0]) < 2 or not any(len(items.partners(n)) for n in range(len(items))):
        raise ValueError(
            "data: expected boxes of at least 2 instances, one of them in at least 2 photos, "
            f"found {len(items)} boxes of {int((counts > 0).sum())} instances"
        )
    return items


def _some_of(numbers: Tensor, count: int) -> Tensor:
    """``count`` of these numbers at random, each once; all if there are fewer."""
    if count == 1 and len(numbers):
        return numbers[torch.randint(len(numbers), (1,))]
    return numbers[torch.randperm(len(numbers))[:count]]
