"""The whole analysis: describe, search, compare, and test for significance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.cli.programs.analyses.conclusions import Conclusion, SignificanceTest
from objemb.cli.programs.analyses.features import POOLINGS, FeatureView
from objemb.cli.programs.analyses.layer_describer import LayerDescriber
from objemb.cli.programs.analyses.search import LayerSearch
from objemb.cli.programs.analyses.settings import (
    BOXES,
    CLASSIFICATION,
    DETECTION,
    GRID,
    LAYER_SETTINGS,
    TRUTH,
    Score,
    Setting,
    attention_settings,
)
from objemb.cli.programs.analyses.trunks import Layer, Trunk, sweep
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.regions.base import RegionSource

#: Dimensions after PCA; those that exceed the rank of a layer's whitening are left out.
DIMS = (64, 128, 256, 512, 1024, 2048)
#: Difference of mAP up to which two sides count as equal.
MARGIN = 0.02


@dataclass(frozen=True, eq=False)
class Analysis:
    """The results of an analysis.

    Attributes:
        layers: The compared layers, in the order in which they are computed.
        whitened: Whether vectors were whitened by PCA.
        scores: Scores of both networks, for all layers and poolings.
        attention: Scores of the highest layer of the classification network by kind of regions; empty at object level.
        conclusions: Verdicts on the claims of the paper.
        problems: A line for each photo that could not be read, and one if the whitening is fitted on photos of the set.
    """

    layers: Sequence[Layer]
    whitened: bool
    scores: Sequence[Score]
    attention: Sequence[Score]
    conclusions: Sequence[Conclusion]
    problems: Sequence[str]

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict, without the average precision of each query."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "whitened": self.whitened,
            "scores": [_score_json(score) for score in self.scores],
            "attention": [_score_json(score) for score in self.attention],
            "conclusions": [asdict(conclusion) for conclusion in self.conclusions],
            "problems": list(self.problems),
        }


def analyse(
    classification: Backbone,
    detection: Backbone,
    data: EvaluationSet,
    task: RetrievalTask,
    *,
    whiten_on: Sequence[str | Path] | None,
    attention: RegionSource | None = None,
    layers: Sequence[str] = (),
    whiten_boxes: RegionSource | None = None,
    size: int = 1025,
    dims: Sequence[int] = DIMS,
    margin: float = MARGIN,
    seed: int = 0,
    workers: int = 2,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Analysis:
    """Compare features and regions on one set.

    Queries, and objects at object level, are pooled inside their box from the map of their whole photo.

    Args:
        classification: A network with maps of several strides.
        detection: A network with the same trunk; see :class:`~objemb.backbones.detector_trunk.DetectorTrunk`.
        data: The set.
        task: The retrieval task on the set. At object level, boxes are given, so that regions are not compared.
        whiten_on: Photos to fit PCA whitenings on, as in the paper, other than those of the set; None leaves vectors
            unwhitened, in all their dimensions.
        attention: Gives the whole image and the boxes of a detector; None leaves these regions out.
        layers: Names of the layers to compare, see :class:`objemb.cli.programs.analyses.trunks.Layer`; by default those
            of the last two rows: residual blocks conv4_1 to conv5_3 of a ResNet, the range of the paper.
        whiten_boxes: Gives the boxes of the photos for the whitening; by default ``attention``.
        size: Longest side of a photo at the input of a network, in pixels.
        dims: Dimensions after PCA. Those that both sides of a comparison have are used, or if there are none, the
            largest that both have.
        margin: Difference of mAP, 0 to 1, up to which two sides count as equal.
        seed: Seed of the bootstrap.
        workers: Number of decoding threads.
        on_stage: Called with the name of each stage before it begins.

    Raises:
        ValueError: The networks do not have the same trunk, or lack a named layer; there are too few photos to fit a
            whitening; or at object level there are no boxes to fit it on.
    """
    dims = sorted({checks.whole("dims", d) for d in checks.several("dims", dims)})
    trunks = {CLASSIFICATION: Trunk(classification), DETECTION: Trunk(detection)}
    compared = _chosen_layers(trunks[CLASSIFICATION], trunks[DETECTION], layers)
    test = SignificanceTest([query.instances for query in task.queries], margin, seed)
    photos = () if whiten_on is None else checks.several("whiten_on", whiten_on)
    kinds = _attention_kinds(data, task, attention)
    multiple = max(classification.multiple, detection.multiple)
    whiten_boxes = whiten_boxes or attention
    if photos and task.level == "object" and whiten_boxes is None:
        raise ValueError("whiten_boxes: expected boxes to fit a whitening of objects on, found none")
    describer = LayerDescriber(data, task, attention, whiten_boxes, size=size, multiple=multiple, workers=workers)
    sides = {}
    for name, trunk in trunks.items():
        views = _views(compared, kinds if name == CLASSIFICATION else ())
        on_stage(f"{name}: fitting the whitening on photos from {len(photos)} sources")
        sample = describer.whitening(trunk, views, photos) if photos else {}
        on_stage(f"{name}: {len(task.database)} {task.level}s, {len(task.queries)} queries")
        sides[name] = LayerSearch(describer.evaluation(trunk, views), sample, task)
    on_stage("searching")
    chosen = dims if photos else ()
    pairs = itertools.product(compared, LAYER_SETTINGS)
    scores = [score for layer, setting in pairs for score in _compared(sides, layer, [setting], chosen)]
    first = {CLASSIFICATION: sides[CLASSIFICATION]}
    groups = [attention_settings(pooling, kinds) for pooling in POOLINGS] if kinds else []
    of_attention = [c for settings in groups for c in _compared(first, compared[-1], settings, chosen)]
    conclusions = [*test.networks(scores, compared), *test.attention(of_attention)]
    return Analysis(compared, bool(photos), scores, of_attention, conclusions, tuple(dict.fromkeys(describer.problems)))


def _chosen_layers(classification: Trunk, detection: Trunk, names: Sequence[str]) -> Sequence[Layer]:
    """The layers to compare, which both networks must have."""
    shapes = [{layer.name: (layer.stride, layer.channels) for layer in t.layers} for t in (classification, detection)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ValueError(
            "networks: expected the same trunk, maps of several strides with as many channels (stride, channels), "
            f"found {shapes[0] or 'one map only'} and {shapes[1] or 'one map only'}"
        )
    if not names:
        return sweep(classification.layers)
    wanted = {checks.one_of("layers", name, tuple(shapes[0])) for name in names}
    return tuple(layer for layer in classification.layers if layer.name in wanted)


def _attention_kinds(data: EvaluationSet, task: RetrievalTask, attention: RegionSource | None) -> tuple[str, ...]:
    if task.level == "object":
        return ()
    return (GRID, *([BOXES] if attention is not None else []), *([TRUTH] if data.objects else []))


def _views(layers: Sequence[Layer], kinds: Sequence[str]) -> list[FeatureView]:
    """The vectors that all tables need; the ``kinds`` of regions at the highest layer only."""
    top = [setting for pooling in POOLINGS for setting in attention_settings(pooling, kinds)] if kinds else []
    wanted = [*itertools.product(layers, LAYER_SETTINGS), *((layers[-1], setting) for setting in top)]
    views = (
        FeatureView(layer.name, kind, setting.pooling)
        for layer, setting in wanted
        for kind in (setting.kind, setting.query_kind)
    )
    return list(dict.fromkeys(views))


def _compared(
    sides: Mapping[str, LayerSearch], layer: Layer, settings: Sequence[Setting], dims: Sequence[int]
) -> Iterator[Score]:
    """The scores to compare with each other, at the dimensions that all of them have."""
    most = min(side.rank(layer.name, setting) for side in sides.values() for setting in settings)
    fitting = [d for d in dims if d <= most] or [most]
    for setting, (name, side) in itertools.product(settings, sides.items()):
        for dim, precisions in zip(fitting, side.precisions(layer.name, setting, fitting), strict=True):
            yield Score(name, layer.name, setting, dim, precisions)


def _score_json(score: Score) -> dict[str, object]:
    return {
        "network": score.network,
        "layer": score.layer,
        **asdict(score.setting),
        "dim": score.dim,
        "mAP": score.mean_precision,
    }
