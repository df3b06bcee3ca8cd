"""The state of a model apart from code: its tensors, and settings that refer to no file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from objemb.models.folder import fingerprint
from objemb.models.pipeline import AGGREGATOR, AnyAggregator, AnyDescriber

WHITENING = "whitening."


def model_tensors(describer: AnyDescriber, aggregator: AnyAggregator) -> dict[str, dict[str, Tensor]]:
    """Tensors by file: ``weights`` with those of the networks and of the fitted aggregator, and ``whitening``."""
    learned = {f"{AGGREGATOR}{name}": tensor for name, tensor in aggregator.state_dict().items()}
    state = {**describer.state_dict(), **learned}
    return {
        "weights": {k: v for k, v in state.items() if not k.startswith(WHITENING)},
        "whitening": {k.removeprefix(WHITENING): v for k, v in state.items() if k.startswith(WHITENING)},
    }


def model_fingerprint(settings: Mapping[str, object], tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The fingerprint of a model; see :func:`objemb.models.folder.fingerprint`.

    It does not depend on re-rankers, since they change results, not vectors.
    """
    vectors = {part: value for part, value in settings.items() if part != "rerank"}
    return fingerprint(without_weights(vectors), tensors)


def without_weights(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with every ``weights`` set to None: the model folder has the tensors, the provenance their origin."""
    return {key: None if key == "weights" else _without_weights(value) for key, value in settings.items()}


def _without_weights(value: object) -> object:
    """As :func:`without_weights`, for any value, such as a list of parts."""
    if isinstance(value, Mapping):
        return without_weights(value)
    return [_without_weights(v) for v in value] if isinstance(value, (list, tuple)) else value
