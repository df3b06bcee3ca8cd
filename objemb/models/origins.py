"""Origins of weights and of plug-ins of other packages, and the networks that have no weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from objemb import checks, registry
from objemb.card import CARD, PluginOrigin, Provenance, TrainingFacts, WeightsOrigin, read_card
from objemb.checks import MissingWeightsError
from objemb.disk import file_sha256
from objemb.registry import Plugin, PluginError
from objemb.types import Settings
from objemb.weights.locate import RANDOM

#: The key of a training task that may hold a describer of its own.
TEACHER = "teacher"
#: Kinds of parts that are networks: those of them that have the key ``weights``.
NETWORKS = ("backbones", "detectors", "heads", "local_features", "describers")

#: The file of weights in a folder of transformers.
WEIGHTS_OF_OTHERS = "model.safetensors"


@dataclass(frozen=True)
class Network:
    """A network in settings.

    Attributes:
        key: Its dotted key, such as ``describer.backbone``.
        plugin: The class of its plug-in.
        settings: Settings of the part.
        covered: Whether the weights of an enclosing part include its weights.
    """

    key: str
    plugin: type[Plugin]
    settings: Settings
    covered: bool

    @property
    def weights(self) -> str | None:
        """The value of ``weights`` in its settings, or None."""
        return self.settings.get("weights")

    def __str__(self) -> str:
        return f"{self.key} ({self.settings['name']})"


def networks(settings: Settings) -> Iterator[Network]:
    """The networks in settings, a describer's before its parts; defaults may be missing."""
    inside: list[str] = []
    for key, kind, part in _parts(settings):
        if kind not in NETWORKS:
            continue
        plugin = registry.load(kind, part["name"])
        if "weights" in registry.arguments(plugin):
            yield Network(key, plugin, part, _within(key, inside))
            if part.get("weights") is not None:
                inside.append(key)


def _parts(settings: Settings, path: str = "") -> Iterator[tuple[str, str, Settings]]:
    """Dotted key, kind and settings of all known parts, each before its nested parts."""
    for key, value in settings.items():
        kind = "describers" if key == TEACHER else registry.KINDS.get(key)
        several = isinstance(value, (list, tuple))
        for number, part in enumerate(value if several else [value]):
            if kind is not None and isinstance(part, Mapping) and part.get("name") in registry.names(kind):
                place = f"{path}{key}[{number}]" if several else f"{path}{key}"
                yield place, kind, part
                yield from _parts(part, f"{place}.")


def expect_weights(settings: Mapping[str, object], learned: Collection[str] = ()) -> None:
    """Refuse networks without weights in their settings, if some are published.

    Args:
        settings: Settings of a method or of a training task; defaults may be missing.
        learned: Keys of the parts that are trained from scratch, which need no weights.

    Raises:
        ValueError: There are such networks; the message has all of them and the settings to add.
    """
    unnamed = [n for n in networks(settings) if n.weights is None and not n.covered]
    refused = [n for n in unnamed if n.plugin.published and not _within(n.key, learned)]
    if refused:
        overrides = "; ".join(f"{n.key}.weights={n.plugin.published}" for n in refused)
        raise ValueError(
            f"weights: expected weights for every network, found none for {', '.join(map(str, refused))}; "
            f"pass {overrides}; or {', '.join(f'{n.key}.weights={RANDOM}' for n in refused)} for random weights"
        )


def expect_stand_alone(settings: Mapping[str, object]) -> None:
    """Refuse settings of a model folder that refer to anything outside, since it may be from an untrusted source.

    Raises:
        ValueError: The settings name weights, which would be downloaded, or a file, which would be read.
    """
    named = named_files(settings)
    for key, kind, part in _parts(settings):
        if kind in NETWORKS and part.get("weights") is not None:
            named[f"{key}.weights"] = str(part["weights"])
    for key, name in named.items():
        raise ValueError(f"{key}: expected a self-contained model folder, found {name!r}; it was not used")


def named_files(settings: Mapping[str, object]) -> dict[str, str]:
    """The files that settings name besides weights of networks, by dotted key."""
    named = {}
    for key, kind, part in _parts(settings):
        for setting, pattern in registry.load(kind, part["name"]).files.items():
            value = part.get(setting)
            if isinstance(value, str) and not re.fullmatch(pattern, value):
                named[f"{key}.{setting}"] = value
    return named


def brought(settings: Settings) -> dict[str, PluginOrigin]:
    """The plug-ins of other packages in settings, as stored in a model folder.

    Args:
        settings: Settings of a method.

    Returns:
        By dotted key: ``kind`` and ``name`` of the plug-in, ``package`` (name of the distribution) and its ``version``.
    """
    plugins: dict[str, PluginOrigin] = {}
    for key, kind, part in _parts(settings):
        origin = registry.origin(kind, part["name"])
        if origin is not None:
            plugins[key] = {"kind": kind, "name": origin.name, "package": origin.package, "version": origin.version}
    return plugins


def expect_installed(provenance: Provenance) -> None:
    """Refuse a model that needs plug-ins of packages that are not installed.

    Args:
        provenance: Provenance of the model; ``plugins`` is the result of :func:`brought` when it was built.

    Raises:
        PluginError: Plug-ins are missing; the message names them and their packages.
    """
    missing = {
        f"{said.get('kind')}/{said.get('name')}": f"{said.get('package')} {said.get('version')}"
        for said in (provenance.get("plugins") or {}).values()
        if said.get("kind") in registry.KINDS.values() and said.get("name") not in registry.names(said["kind"])
    }
    if missing:
        listing = checks.lines([f"{plugin}, of the package {package!r}" for plugin, package in missing.items()])
        raise PluginError(
            f"model: expected its plug-ins to be installed, found these missing; install the packages recorded in the "
            f"model if you trust them:{listing}"
        )


@contextlib.contextmanager
def missing_together(settings: Mapping[str, object]) -> Iterator[None]:
    """Combine missing weights of all networks that are built within the context into one error.

    Raises:
        MissingWeightsError: With one line for each network whose weights are neither on this machine nor downloadable.
    """
    try:
        yield
    except MissingWeightsError as error:
        missing = {}
        for network in networks(settings):
            with contextlib.suppress(Exception):  # other errors are raised when this network is built itself
                try:
                    registry.build(network.plugin, network.settings)
                except MissingWeightsError as one:
                    missing[str(one)] = network.key  # key of the innermost network that cannot be built
        lines = [f"{key}.{text}" for text, key in missing.items()]
        if not lines:
            raise
        message = lines[0] if len(lines) == 1 else f"weights of {len(lines)} networks are missing:{checks.lines(lines)}"
        raise MissingWeightsError(message) from error


def origins(settings: Mapping[str, object], *, seed: int) -> dict[str, WeightsOrigin]:
    """The origins of the weights of all networks, as stored in a model folder.

    Args:
        settings: Settings of a method or of a training task.
        seed: Seed of random weights.

    Returns:
        By dotted key: name of the weights with the checksum of a file or the fingerprint of a model folder; ``random``
        with the seed.
    """
    weights: dict[str, WeightsOrigin] = {}
    for network in networks(settings):
        if network.weights is not None or not network.covered:
            weights[f"{network.key}.weights"] = _origin(network, seed)
    return weights


def _origin(network: Network, seed: int) -> WeightsOrigin:
    weights = network.weights
    if weights is None or weights == RANDOM:
        return {"name": RANDOM, "seed": seed}
    place = Path(weights).expanduser()
    if (place / WEIGHTS_OF_OTHERS).is_file() and not (place / CARD).is_file():
        return {"name": str(weights), "sha256": file_sha256(place / WEIGHTS_OF_OTHERS)}
    if place.is_dir():
        card = read_card(place)
        random = untrained(card["settings"], card.get("provenance", {}))
        part = network.key.rpartition(".")[2]
        alike = [n.key for n in networks(card["settings"]) if n.key.rpartition(".")[2] == part]
        vain = [key for key in alike if key in random]  # it is not known which of several was used
        own: WeightsOrigin = {"random": vain} if vain and vain == alike else {}
        return {"name": str(weights), "fingerprint": card["fingerprint"], **own}
    return {"name": str(weights), "sha256": file_sha256(place)} if place.is_file() else {"name": str(weights)}


def described(settings: Mapping[str, object], provenance: Provenance) -> dict[str, str]:
    """Readable origin of the weights of each network of a model, by dotted key.

    Args:
        settings: Settings of the model, which contain no weights.
        provenance: Provenance of the model.
    """
    training, learned = _training(provenance)
    return {
        n.key: _text(_origin_of(n.key, provenance))
        + (f", then trained by the task {training.get('task', 'unknown')}" if _within(n.key, learned) else "")
        for n in networks(settings)
    }


def recorded(provenance: Provenance) -> dict[str, str]:
    """Likewise, of networks that only graphs are left of: as it was kept, without a look at their plug-ins.

    Args:
        provenance: Of an exported model.
    """
    kept = provenance.get("weights") or {}
    return {key.removesuffix(".weights"): _text(origin) for key, origin in kept.items()}


def untrained(settings: Mapping[str, object], provenance: Provenance) -> list[str]:
    """Keys of the networks of a model that have random weights and were not trained."""
    _, learned = _training(provenance)
    return [
        n.key
        for n in networks(settings)
        if not _within(n.key, learned) and ((o := _origin_of(n.key, provenance)).get("name") == RANDOM or o.get(RANDOM))
    ]


def _training(provenance: Provenance) -> tuple[TrainingFacts, Collection[str]]:
    """The recorded training of a model and the keys of its trained parts; all parts if they were not recorded."""
    training = provenance.get("training") or {}
    return training, training.get("learned", ["describer"]) if training else []


def _origin_of(key: str, provenance: Provenance) -> WeightsOrigin:
    """The recorded origin of a network; weights of an enclosing part have replaced its own."""
    recorded = provenance.get("weights") or {}
    path = key.split(".")
    around = [recorded.get(f"{'.'.join(path[:n])}.weights") for n in range(1, len(path) + 1)]
    known = [origin for origin in around if origin]
    unknown: WeightsOrigin = {"name": RANDOM}
    return next((o for o in known if o.get("name") != RANDOM), known[-1] if known else unknown)


def _text(origin: WeightsOrigin) -> str:
    name = str(origin.get("name"))
    if name == RANDOM:
        return f"random (seed {origin['seed']})" if "seed" in origin else "random"
    facts = [f"{kind} {origin[kind]}" for kind in ("sha256", "fingerprint") if kind in origin]
    facts += (
        [f"where {checks.listed(origin['random'])} {'was' if len(origin['random']) == 1 else 'were'} random"]
        if origin.get("random")
        else []
    )
    return f"{name} ({', '.join(facts)})" if facts else name


def _within(key: str, parts: Collection[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)
