"""State dicts into networks: the tensors of one part, and all of them or an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from objemb.weights.read import SHOWN, UnreadableWeightsError, first_of


def of_module(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a part, where ``state`` is that of a larger module, such as a whole model: names without prefix.

    Args:
        module: The part.
        state: Tensors by name; of the part itself, it is returned as it is, as when no part of it fits.
        source: What to call it in errors.

    Raises:
        UnreadableWeightsError: Several parts fit; their prefixes are named.
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
    """Put a state dict into a network, strictly: every parameter and buffer must be in it, with the right shape.

    Parts that the network lacks altogether (a classifier above a feature extractor) may be in ``state`` and are
    ignored; keys *inside* its parts that neither it nor ``known`` has are an error: they mean another architecture.

    Args:
        module: The network.
        state: Tensors by name; ``num_batches_tracked`` may be missing.
        source: What to call it in errors.
        known: More names that may be there: those of the whole network, where ``module`` is a part of it.

    Raises:
        UnreadableWeightsError: Names, shapes or values do not fit; the network is then partly filled.
    """
    try:
        outcome = module.load_state_dict(state, strict=False)
    except Exception as error:  # wrong shapes, and whatever a hostile file leads to
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
