"""What a model consists of besides code: tensors, and settings that stand without any file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from objemb.models.folder import fingerprint
from objemb.models.pipeline import AGGREGATOR, AnyAggregator, AnyDescriber

WHITENING = "whitening."


def model_tensors(describer: AnyDescriber, aggregator: AnyAggregator) -> dict[str, dict[str, Tensor]]:
    """Tensors by file: ``weights`` of the networks and of what an aggregator has learned, and ``whitening``."""
    learned = {f"{AGGREGATOR}{name}": tensor for name, tensor in aggregator.state_dict().items()}
    state = {**describer.state_dict(), **learned}
    return {
        "weights": {k: v for k, v in state.items() if not k.startswith(WHITENING)},
        "whitening": {k.removeprefix(WHITENING): v for k, v in state.items() if k.startswith(WHITENING)},
    }


def model_fingerprint(settings: Mapping[str, object], tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The fingerprint of a model; see :func:`objemb.models.folder.fingerprint`.

    Re-ranking does not count: it changes results, not vectors.
    """
    vectors = {part: value for part, value in settings.items() if part != "rerank"}
    return fingerprint(without_weights(vectors), tensors)


def without_weights(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings whose ``weights`` are null: the tensors lie in the model folder, where they came from is provenance."""
    return {key: None if key == "weights" else _without_weights(value) for key, value in settings.items()}


def _without_weights(value: object) -> object:
    """Likewise of any value; several parts form a list."""
    if isinstance(value, Mapping):
        return without_weights(value)
    return [_without_weights(v) for v in value] if isinstance(value, (list, tuple)) else value
