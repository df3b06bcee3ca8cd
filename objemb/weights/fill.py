"""Filling networks from state dicts: selecting the tensors of one part, and loading them strictly."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from objemb.weights.read import SHOWN, UnreadableWeightsError, first_of


def of_module(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a part, if ``state`` is that of a larger module such as a whole model, with names without prefix.

    Args:
        module: The part.
        state: Tensors by name. Returned unchanged if it is that of the part itself, or if no part of it fits.
        source: Name of the state dict in errors.

    Raises:
        UnreadableWeightsError: Several parts of ``state`` fit; their prefixes are named.
    """
    names = [k for k in module.state_dict() if not k.endswith("num_batches_tracked")]
    if not names or any(k in state for k in names):
        return state
    ends = (k.removesuffix(names[0]) for k in state if k.endswith(f".{names[0]}"))
    fitting = [prefix for prefix in ends if all(prefix + k in state for k in names)]
    if len(fitting) > 1:
        raise UnreadableWeightsError(
            f"{source}: expected tensors of one network that fit, found them under {first_of(fitting)}"
        )
    return {k.removeprefix(p): v for p in fitting for k, v in state.items() if k.startswith(p)} or state


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str | Path, known: Collection[str] = ()) -> None:
    """Load a state dict into a network strictly: every parameter and buffer must be in it, with the right shape.

    ``state`` may contain parts that the network does not have at all (a classifier on top of a feature extractor); they
    are ignored. Keys *inside* its parts that are neither in the network nor in ``known`` are an error, because they
    belong to another architecture.

    Args:
        module: The network.
        state: Tensors by name; ``num_batches_tracked`` may be missing.
        source: Name of the state dict in errors.
        known: Further names that are allowed: those of the whole network, if ``module`` is a part of it.

    Raises:
        UnreadableWeightsError: Names, shapes or values do not fit; the network may then be partly filled.
    """
    try:
        outcome = module.load_state_dict(state, strict=False)
    except Exception as error:  # wrong shapes, or any other error from a malicious file
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1 : 1 + SHOWN]) or str(error)
        raise UnreadableWeightsError(f"{source}: the weights do not fit the network: {reason}") from error
    missing = [k for k in outcome.missing_keys if not k.endswith("num_batches_tracked")]
    parts = {k.split(".")[0] for k in module.state_dict()}
    foreign = [k for k in outcome.unexpected_keys if k not in known and k.split(".")[0] in parts]
    if missing:
        raise UnreadableWeightsError(
            f"{source}: {len(missing)} tensors of the network are missing: "
            f"expected {first_of(missing)}, found {first_of(state)}"
        )
    if foreign:
        raise UnreadableWeightsError(
            f"{source}: {len(foreign)} tensors belong to another architecture: found {first_of(foreign)}"
        )
    broken = [k for k, v in module.state_dict().items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise UnreadableWeightsError(
            f"{source}: expected finite values, found NaN or infinite ones in {first_of(broken)}"
        )
