"""Building, saving and opening models."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objemb import checks, config, registry
from objemb.aggregators.base import ImageAggregator
from objemb.card import Provenance, WeightsOrigin, read_card
from objemb.checks import ArtefactMismatchError
from objemb.describers.base import PhotoDescriber
from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.capabilities import NetworkDetector
from objemb.devices import find_device, find_precision
from objemb.layers.whitening import Whitening
from objemb.models.folder import read_tensors, write_folder
from objemb.models.model import Model
from objemb.models.origins import (
    brought,
    expect_installed,
    expect_stand_alone,
    expect_weights,
    missing_together,
    named_files,
    networks,
    origins,
)
from objemb.models.pipeline import AGGREGATOR, AnyAggregator, AnyDescriber, connected, vector_describer
from objemb.models.state import WHITENING, model_tensors, without_weights
from objemb.rerank.base import Reranker
from objemb.runtimes.exported import EXPORT
from objemb.types import Settings
from objemb.version import __version__

log = logging.getLogger(__name__)

#: Seed of random weights, so that they are the same in every build of the same settings.
SEED = 0


def build_model(
    settings: Mapping[str, object], *, device: str = "cpu", precision: str = "fp32", command: Sequence[str] = ()
) -> Model:
    """Build a model from settings, with the weights named in them.

    Args:
        settings: Settings from :func:`objemb.config.load_config`; defaults may be missing.
        device: Device of its networks, as for :func:`load_model`.
        precision: Precision of its networks, as for :func:`load_model`.
        command: The command line, for the provenance.

    Raises:
        ValueError: Unknown keys or values, a network without weights in the settings although some are published, or a
            device that this machine does not have.
        MissingWeightsError: Weights are neither on this machine nor downloadable; the message lists all of them.
    """
    resolved = config.resolve(settings)
    expect_weights(resolved)
    device = find_device(device)
    precision = find_precision(precision, device)
    with missing_together(resolved):
        describer, aggregator, rerankers = _build_parts(resolved)
    _tell_unused_head(describer)
    provenance: Provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "weights": _with_random_parts(origins(resolved, seed=SEED), describer),
        "versions": versions(),
    }
    return Model(
        describer.to(device), aggregator, without_weights(resolved), provenance, device, rerankers, precision=precision
    )


def save_model(model: Model, folder: str | Path, *, force: bool = False) -> None:
    """Write a model folder atomically; see :mod:`objemb.models.folder`.

    Args:
        model: A fitted model.
        folder: The folder to create.
        force: Whether to replace an existing model.

    Raises:
        FileExistsError: The folder exists and is not a model, or is one and ``force`` is false.
        NotFittedError: A part is not fitted.
        ValueError: The model's boxes come from a file, or a re-ranker has its own network; a model folder cannot
            contain either.
    """
    if model.detector is not None and not isinstance(model.detector, torch.nn.Module):
        raise ValueError(
            f"model folder: expected a detector that is a network or none, found {model.detector.registry_name}; "
            "build with regions.detector=null and give the file to --boxes (boxes= in Python)"
        )
    for network in networks({"rerank": model.settings.get("rerank", [])}):
        raise ValueError(
            f"model folder: expected re-rankers without networks, found {network}; leave it out and give it to --rerank"
        )
    for key in named_files({"rerank": model.settings.get("rerank", [])}):
        raise ValueError(
            f"model folder: expected re-rankers without files, found {key}; leave it out and give it to --rerank"
        )
    model.pipeline.check_fitted()
    write_folder(Path(folder), model_card(model), model_tensors(model.describer, model.aggregator), force=force)


def model_card(model: Model) -> dict[str, object]:
    """The card of a model folder without format and checksums, JSON-ready."""
    whitening = model.whitening
    plugins = brought(model.settings)
    return {
        "fingerprint": model.fingerprint,
        "dim": model.dim,
        "settings": model.settings,
        "preprocessing": model.preprocessing,
        "whitening": None if whitening is None else whitening.settings(),
        "fitted": {k: v.settings() for k, v in model.pipeline.fitted_parts().items()},
        "provenance": {**model.provenance, **({"plugins": plugins} if plugins else {})},
    }


def load_model(path: str | Path, device: str = "cpu", precision: str = "fp32") -> Model:
    """Open a model folder. Nothing is downloaded, and no code in it is executed.

    Args:
        path: A folder written by ``objemb model build`` or :meth:`Model.save`.
        device: Device of its networks: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` for a GPU if there is one, else
            the CPU; ``gpu`` for a GPU or an error. See :func:`objemb.devices.find_device`.
        precision: Precision of its networks: ``fp32``, ``bf16``, ``fp16``, or ``auto``, see
            :func:`objemb.devices.find_precision`. Vectors are float32 in any case, and the fingerprint is the same.

    Raises:
        FileNotFoundError: The path is not a model folder.
        ArtefactMismatchError: Files are damaged or do not belong together; the message has expected and found values.
        PluginError: The model needs plug-ins of packages that are not installed; the message names them.
        ValueError: This machine does not have the device.
    """
    device = find_device(device)
    precision = find_precision(precision, device)
    card = read_card(path)
    if EXPORT in card:
        raise ValueError(
            f"{path}: expected a model of PyTorch, found one that 'objemb export' made: objemb.load opens it for "
            "indexing, search and evaluation, and for no more"
        )
    tensors = read_tensors(path, card)
    expect_installed(card.get("provenance", {}))
    try:
        expect_stand_alone(card["settings"])
        settings = config.resolve(card["settings"])
        describer, aggregator, rerankers = _build_parts(settings)
        whitening = card.get("whitening")
        if whitening:
            describer = vector_describer(describer, "whitening").whitened(Whitening(**whitening))
        _fill(describer, aggregator, tensors)
        for name, part in connected(describer, aggregator).fitted_parts().items():
            part.fitted_on = str(card["fitted"][name]["fitted_on"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtefactMismatchError(f"{path}: settings and weights do not belong together: {error}") from error
    provenance = card.get("provenance", {})
    model = Model(
        describer.to(device), aggregator, card["settings"], provenance, device, rerankers, Path(path), precision
    )
    if model.fingerprint != card["fingerprint"]:
        raise ArtefactMismatchError(
            f"{path}: expected fingerprint {card['fingerprint']}, found {model.fingerprint}: the settings were changed"
        )
    log.info("%s: model %s on %s in %s", path, model.fingerprint[:12], device, precision)
    return model


def _build_parts(settings: Settings) -> tuple[AnyDescriber, AnyAggregator, tuple[Reranker, ...]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        describer: Any = registry.build(PhotoDescriber, settings["describer"])
    aggregator: Any = registry.build(ImageAggregator, settings["aggregator"])
    connected(describer, aggregator)
    aggregator.connect(describer.dim)
    rerankers = tuple(registry.build(Reranker, step) for step in settings["rerank"])
    return describer.requires_grad_(False), aggregator.requires_grad_(False), rerankers


def _with_random_parts(weights: dict[str, WeightsOrigin], describer: AnyDescriber) -> dict[str, WeightsOrigin]:
    """Origins of weights that also say what of a detector its file of weights did not fill."""
    detector = describer.detector
    if isinstance(detector, NetworkDetector) and detector.random_parts:
        for key in ("describer.detector.weights", "describer.regions.detector.weights"):
            if key in weights:
                weights[key]["random"] = list(detector.random_parts)
    return weights


def _tell_unused_head(describer: AnyDescriber) -> None:
    """Say if the file of a detector's weights has a trained embedding head that this model does not take."""
    detector = describer.detector
    if not isinstance(detector, NetworkDetector) or detector.unused_head is None:
        return
    if isinstance(describer, BoxEmbedder) and describer.head.file is not None:
        return
    log.warning(
        "%s: the embedding head that was trained in it is not used: 'objemb model build detectron2' takes detector and "
        "head, and so do head.weights=%s beside the weights of the detector of a one_pass",
        detector.unused_head,
        detector.unused_head,
    )


def _fill(describer: torch.nn.Module, aggregator: torch.nn.Module, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load tensors into the networks; raise ``ValueError`` if any are missing or left over."""
    state = {**tensors["weights"], **{f"{WHITENING}{k}": v for k, v in tensors["whitening"].items()}}
    expected = [*describer.state_dict(), *(f"{AGGREGATOR}{k}" for k in aggregator.state_dict())]
    missing, surplus = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if missing or surplus:
        raise ValueError(f"missing tensors: {_first(missing)}; tensors too many: {_first(surplus)}")
    describer.load_state_dict({k: v for k, v in state.items() if not k.startswith(AGGREGATOR)}, strict=True)
    learned = {k.removeprefix(AGGREGATOR): v for k, v in state.items() if k.startswith(AGGREGATOR)}
    aggregator.load_state_dict(learned, strict=True)


def _first(names: Sequence[str]) -> str:
    return f"{checks.listed(names[:3])} of {len(names)}" if names else "none"


def versions() -> dict[str, str]:
    """Versions of objemb and of the libraries that compute vectors."""
    names = ("torch", "torchvision", "numpy", "pillow")
    return {"objemb": __version__, "python": platform.python_version(), **{n: metadata.version(n) for n in names}}
