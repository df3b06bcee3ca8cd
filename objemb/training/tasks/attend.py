"""Attention weights of regions or local features, trained by classifying photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from objemb import checks
from objemb.aggregators.base import Aggregator, FeatureAggregator
from objemb.aggregators.sum import Sum
from objemb.describers.base import Describer
from objemb.describers.capabilities import FeatureDescriber
from objemb.layers.learned_attention import LearnedAttention
from objemb.models.fitting import fit_parts
from objemb.models.model import Model
from objemb.models.pipeline import connected
from objemb.models.state import without_weights
from objemb.ops.batches import batched
from objemb.registry import plugin
from objemb.training.data.base import NO_INSTANCE, Example, Examples
from objemb.training.optimizer import ParameterGroup
from objemb.training.task import Task, expect_identities

CLASSIFIERS = ("network", "learned")
#: Photos per batch in validation.
BATCH = 8


@plugin
class Attend(Task):
    """Trains attention weights of regions or local features, with classification as a proxy task.

    Only the attention, and optionally a classification layer, is trained (Kim and Yoon, "Regional attention based deep
    feature for image retrieval", BMVC 2018; Noh et al., "Large-scale image retrieval with attentive deep local
    features", ICCV 2017).

    ::

        frozen map ── maxima of regions ── mean of a_r max_r ── classifier ── cross entropy
                  └── means of regions and image ── attention ── a_r

        frozen map ── unit activations x ── mean of a(x) x ── classifier ── cross entropy            (local features)

    For a photo of several instances the target is a uniform distribution over them.

    Args:
        describer: A ``regional_attention``, or a ``local`` with the extractor ``attentive``; its backbone has
            pretrained weights.
        data: Photos with instances, which are the classes. The boxes are not used.
        validation: Other photos of the same instances, for the figure ``accuracy``; None for no validation.
        classifier: ``network``: the backbone's own frozen classification layer (``classes: true``), as in the paper;
            instance n is its class n, so the data need one sub-folder per class in the order of the network.
            ``learned``: a new layer that is trained and then discarded, for data of other classes.
        attention_rate: Factor on the learning rate of the attention. Its many inputs are non-negative, so that with the
            full rate its hidden units saturate and all regions get equal weights.
        aggregator: Aggregator of the trained model; None for the sum of regions weighted by the attention. Local
            features need an aggregator of local features.
        fit_photos: Number of training photos to which unsupervised parts of the model, such as a PCA and a codebook,
            are fitted after the last step.

    Raises:
        TypeError: The describer is of another kind.
        ValueError: The aggregator does not fit the describer, there are fewer than two instances, their number is not
            that of the network's classes, or the validation data have other instances.
    """

    def __init__(
        self,
        *,
        describer: Describer | FeatureDescriber,
        data: Examples,
        validation: Examples | None = None,
        classifier: str = "learned",
        attention_rate: float = 0.05,
        aggregator: Aggregator | FeatureAggregator | None = None,
        fit_photos: int = 500,
    ) -> None:
        super().__init__()
        learner = describer.learned_attention()
        if len(data.instances) < 2:
            raise ValueError(f"data: expected photos of at least 2 instances, found {len(data.instances)}")
        if validation is not None and validation.instances != data.instances:
            raise ValueError(
                f"validation: expected the {len(data.instances)} instances of the data, found "
                f"{len(validation.instances)} or others"
            )
        self.aggregator = Sum(weighted=True) if aggregator is None else aggregator
        self.fit_photos = checks.whole("fit_photos", fit_photos)
        connected(describer, self.aggregator)
        self.describer = describer.requires_grad_(False)
        learner.attention.requires_grad_(True)
        self.examples, self.validation = data, validation
        self.classifier = checks.one_of("classifier", classifier, CLASSIFIERS)
        self.attention_rate = checks.positive("attention_rate", attention_rate)
        if classifier == "learned":
            self.classes: nn.Linear | None = nn.Linear(learner.channels, len(data.instances))
        else:
            self.classes = None  # the backbone's own is frozen
            known = learner.class_layer().out_features
            if known != len(data.instances):
                raise ValueError(
                    f"data: expected {known} instances, the network's classes, found {len(data.instances)}"
                )

    def check(self) -> None:
        """Raises ``ValueError`` unless the data have photos of known instances."""
        expect_identities(self.examples)

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """``classes``, a float scalar: mean cross entropy of the photos with an instance; 0 without any.

        Only the instances of each photo are used, not the boxes.
        """
        shown = [e for e in batch if len(_instances(e))]
        if not shown:
            return {"classes": sum(p.sum() for p in self._learner.attention.parameters()) * torch.zeros(())}
        scores = self._scores(shown)
        wanted = torch.zeros_like(scores)
        for row, example in zip(wanted, shown, strict=True):
            instances = _instances(example)
            row[instances.to(row.device)] = 1 / len(instances)
        return {"classes": -(wanted * log_softmax(scores, dim=1)).sum(dim=1).mean()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The attention with its own learning rate, and the classification layer."""
        attention = list(self._learner.attention.parameters())
        groups: list[ParameterGroup] = [{"params": attention, "factor": self.attention_rate}]
        if self.classes is not None:
            groups.append({"params": list(self.classes.parameters()), "factor": 1.0})
        return groups

    def validate(self) -> dict[str, float]:
        """``accuracy``: share of photos whose best class is one of their instances."""
        if self.validation is None:
            return {}
        right = []
        for numbers in batched(range(len(self.validation)), BATCH):
            some = [self.validation[n] for n in numbers]
            shown = [e for e in some if len(_instances(e))]
            best = self._scores(shown).argmax(dim=1).tolist() if shown else []
            right += [one in _instances(example).tolist() for one, example in zip(best, shown, strict=True)]
        return {"accuracy": sum(right) / max(1, len(right))}

    def model(self) -> Model:
        """The describer and its aggregator with fitted unsupervised parts, without a whitening."""
        chosen = self.settings.get("aggregator") or {"name": "sum", "weighted": True}
        settings = {"describer": without_weights(self.settings["describer"]), "aggregator": chosen}
        self.aggregator.connect(self.describer.dim)
        model = Model(self.describer, self.aggregator, settings, {}, str(self.device))
        if not model.pipeline.unfitted():
            return model
        photos = [self.examples[n].photo for n in range(min(self.fit_photos, len(self.examples)))]
        return fit_parts(model, photos, named="photos of the training")

    @property
    def _learner(self) -> LearnedAttention:
        return self.describer.learned_attention()

    def _scores(self, batch: Sequence[Example]) -> Tensor:
        """Class scores ``(B, K)`` of photos, from attention-weighted means."""
        learner = self._learner
        layer = learner.class_layer() if self.classes is None else self.classes
        scores: Tensor = layer(learner.attended_means([e.photo for e in batch]))
        return scores


def _instances(example: Example) -> Tensor:
    """The distinct instances in a photo."""
    distinct: Tensor = example.instances[example.instances != NO_INSTANCE].unique()
    return distinct
