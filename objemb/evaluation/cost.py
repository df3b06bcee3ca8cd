"""Cost of describing a photo, relative to one forward pass of the same network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.describers.base import Describer
from objemb.describers.capabilities import FeatureDescriber
from objemb.detectors.capabilities import NetworkDetector
from objemb.layers.precision import computed
from objemb.structures import Photo, Regions

#: Number of timed rounds, and of warm-up rounds before them.
ROUNDS, WARM_UP = 3, 1


@dataclass(frozen=True)
class Cost:
    """Times of one method, without decoding.

    Attributes:
        milliseconds: Time to describe a photo: mean over photos, median over rounds.
        backbone_milliseconds: Time of one forward pass: mean over photos, median over rounds; None for a method without
            a network.
        ratio: Description over forward pass within a round, median over rounds; None for a method without a network.
        low: Smallest ratio of any round.
        high: Largest ratio of any round.
        network: Description of the network of the forward pass.
        photos: Number of photos.
        rounds: Number of rounds.
    """

    milliseconds: float
    backbone_milliseconds: float | None
    ratio: float | None
    low: float | None
    high: float | None
    network: str | None
    photos: int
    rounds: int


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of a describer's network over a whole photo, whose pixels are already on the device.

    Attributes:
        run: Runs the forward pass.
        network: Description of the network.
    """

    run: Callable[[], object]
    network: str


def measure_cost(
    describer: Describer | FeatureDescriber | None,
    photos: Sequence[Photo],
    describe: Callable[[Photo], object],
    *,
    rounds: int = ROUNDS,
) -> Cost:
    """Time the description of photos and forward passes over the same photos, alternating in each round.

    Other load on the machine thus affects both sides of a ratio.

    Args:
        describer: The describer whose network runs in the forward passes; None for a model that runs without PyTorch.
        photos: Decoded photos, at least one.
        describe: The function to time, which turns a photo into rows of an index.
        rounds: Number of rounds.
    """
    if not photos:
        raise ValueError("photos: expected at least one, found none")
    checks.whole("rounds", rounds)
    with torch.inference_mode():
        passes = [forward_pass(describer, photo) for photo in photos]
        seconds = [_round(describer, photos, describe, passes) for _ in range(WARM_UP + rounds)][WARM_UP:]
    described, passed = zip(*seconds, strict=True)
    millis = 1000 / len(photos)
    first = passes[0]
    if first is None:
        return Cost(median(described) * millis, None, None, None, None, None, len(photos), rounds)
    ratios = [d / p for d, p in seconds]
    return Cost(
        milliseconds=median(described) * millis,
        backbone_milliseconds=median(passed) * millis,
        ratio=median(ratios),
        low=min(ratios),
        high=max(ratios),
        network=first.network,
        photos=len(photos),
        rounds=rounds,
    )


def forward_pass(describer: Describer | FeatureDescriber | None, photo: Photo) -> ForwardPass | None:
    """One forward pass of the network of a describer, at the input size of a whole photo.

    The input is that of the backbone when the whole photo is described as one region: for an extractor that crops, the
    crop of the whole photo; with several scales, the one nearest to 1. If the network is a detector, its backbone with
    the feature pyramid is run.

    Returns:
        None if there is no describer, or it has no network.
    """
    if describer is None:
        return None
    backbone, detector = describer.backbone, describer.detector
    if backbone is not None:
        inputs = _inputs(backbone, lambda: describer.describe([photo], [Regions.whole(photo.size)]))
        if not inputs:
            return None
        pixels = inputs[_own_size(describer.scales)]
        height, width = pixels.shape[2:]
        return ForwardPass(lambda: backbone(pixels[:1]), f"backbone, {width} x {height} pixels")
    if isinstance(detector, NetworkDetector):
        batch = detector.preprocess([photo])
        height, width = batch.tensors.shape[2:]
        trunk = partial(computed, batch.tensors.device, detector.features, batch)
        return ForwardPass(trunk, f"detector's pyramid, {width} x {height} pixels")
    return None


def _own_size(scales: Sequence[float]) -> int:
    """Index of the scale nearest to 1 (as a ratio), in the order of the network's inputs."""
    return min(range(len(scales)), key=lambda number: abs(math.log(scales[number])))


def _inputs(backbone: nn.Module, describe: Callable[[], object]) -> list[Tensor]:
    """The inputs of a network during a description."""
    given: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0])

    hook = backbone.register_forward_pre_hook(remember)
    try:
        describe()
    finally:
        hook.remove()
    return given


def _round(
    describer: Describer | FeatureDescriber | None,
    photos: Sequence[Photo],
    describe: Callable[[Photo], object],
    passes: Sequence[ForwardPass | None],
) -> tuple[float, float]:
    """Total seconds of the descriptions, and of the forward passes."""
    state = None if describer is None else next(describer.parameters(), None)
    device = torch.device("cpu") if state is None else state.device
    described = passed = 0.0
    for photo, one in zip(photos, passes, strict=True):
        described += _seconds(partial(describe, photo), device)
        if one is not None:
            passed += _seconds(one.run, device)
    return described, passed


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
