"""Weights for Detectron2's networks: from its model zoo, its trainer, Detectron1, and classification networks.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor

from objemb import checks
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file
from objemb.weights.pickled_arrays import UnreadablePickleError, read_pickled_arrays
from objemb.weights.read import UnreadableWeightsError, read_weights

if TYPE_CHECKING:
    from detectron2.modeling import GeneralizedRCNN

#: Prefix of the embedding head in ROI heads with embeddings.
EMBEDDING_HEAD = "roi_heads.embedding_head."
#: Anchors in old files; they are computed from the config instead.
ANCHORS = "anchor_generator.cell_anchors"
#: The last layer of the box classifier, in a cascade that of the first stage.
CLASSIFIERS = ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.0.cls_score.weight")
#: Missing in files of Detectron1, whose batch norms are merged into a scale and a shift.
MERGED = (".running_mean", ".running_var")

logger = logging.getLogger(__name__)


def fill_network(network: GeneralizedRCNN, weights: str | Path) -> None:
    """Fill a ``GeneralizedRCNN`` with weights.

    A file without a box classifier, such as ImageNet weights, fills only the trunk (in a C4 network also the stage
    above it); the rest keeps its random values. An embedding head in the file is ignored.

    Raises:
        MissingWeightsError: The file does not exist.
        UnreadableWeightsError: It cannot be read, or does not fit the network.
        ValueError: It has another number of classes.
    """
    file = existing_file(weights, ())
    given = _read_pickle(network, file) if file.suffix == ".pkl" else of_module(network, read_weights(file), file)
    state = {k: v for k, v in given.items() if not k.startswith(EMBEDDING_HEAD) and ANCHORS not in k}
    classifiers = [state[k] for k in CLASSIFIERS if k in state]
    if not classifiers:
        state = _completed(network, state, file)
    elif len(classifiers[0]) != network.roi_heads.num_classes + 1:
        raise ValueError(
            f"{file}: expected weights for {network.roi_heads.num_classes} classes, found {len(classifiers[0]) - 1}; "
            f"pass num_classes={len(classifiers[0]) - 1} or their names as classes"
        )
    fill(network, state, file)


def _read_pickle(network: GeneralizedRCNN, file: Path) -> Mapping[str, Tensor]:
    """The state dict in a pickle; Detectron2's heuristics translate the names of other programs, where they are said.

    Its own detectors are under ``model`` beside an author; Detectron1's under ``blobs``, or not under anything.
    """
    try:
        content = read_pickled_arrays(file)
    except UnreadablePickleError as error:
        raise UnreadableWeightsError(f"weights: {error}") from error
    if not isinstance(content, Mapping):
        raise UnreadableWeightsError(f"{file}: expected arrays by name, found {type(content).__name__}")
    ours = "model" in content and "__author__" in content
    arrays = content["model"] if ours else content.get("blobs", content)
    state = {k: torch.from_numpy(v) for k, v in arrays.items() if isinstance(v, np.ndarray)}
    if ours and not content.get("matching_heuristics", False):
        return state
    aligned: Mapping[str, Tensor] = align_and_update_state_dicts(network.state_dict(), state, c2_conversion=not ours)
    return aligned


def _completed(network: GeneralizedRCNN, state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights of a classifier for the trunk, and the network's own for everything else."""
    own = network.state_dict()
    trunk = "backbone.bottom_up." if hasattr(network.backbone, "bottom_up") else "backbone."
    missing = [k for k in own if k.startswith(trunk) and k not in state and not k.endswith(MERGED)]
    if missing:
        raise UnreadableWeightsError(
            f"{file}: {len(missing)} tensors of the trunk are missing: "
            f"expected {missing[0]!r}, found {checks.listed(list(state)[:3]) or 'nothing'}"
        )
    logger.warning("%s has no classifier of boxes: the trunk is filled, the heads stay random", file.name)
    return {**own, **{k: v for k, v in state.items() if k in own}}
