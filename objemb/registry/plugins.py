"""Names and classes of plug-ins.

A *kind* is a package of objemb (``"backbones"``, ``"pooling"`` ...). Each module in it holds exactly one class marked
with :func:`plugin`, except ``base``, which holds the contract, and those that start with an underscore; the file name
is the name in settings. No list has to be maintained, and a plug-in with a heavy dependency costs nothing until it
is used.

Other packages provide plug-ins by entry points in the group ``objemb.<kind>``:

.. code-block:: toml

    [project.entry-points."objemb.pooling"]
    lp = "my_package.lp:Lp"

They are listed and loaded like those of objemb, and imported when first used. If two packages, or a package and objemb,
define the same name, loading it is an error that names both.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, TypeVar, overload

from objemb import checks
from objemb.registry.outside import Origin, PluginError, outside

C = TypeVar("C", bound="type[Plugin]")
P = TypeVar("P", bound="Plugin")

#: Kinds of plug-ins, by the settings key that holds one: ``backbone: {name: torchvision_cnn, ...}``.
KINDS = {
    "describer": "describers",
    "regions": "regions",
    "of": "regions",
    "beside": "regions",
    "detector": "detectors",
    "backbone": "backbones",
    "extractor": "extractors",
    "local_features": "local_features",
    "pooling": "pooling",
    "aggregator": "aggregators",
    "rerank": "rerank",
    "head": "heads",
    "data": "training.data",
    "validation": "training.data",
    "task": "training.tasks",
    "benchmark": "datasets.benchmarks",
    "engine": "index.engines",
    "store": "index.stores",
    "runtime": "runtimes",
    "combine": "search.combiners",
    "on": "search.executors",
    "ranking_loss": "losses.ranking",
}

#: Modules of a kind's package that contain contracts, not plug-ins. All other modules without a plug-in begin
#: with an underscore.
CONTRACTS = ("base", "capabilities", "exported")


class Plugin:
    """Base class of all contracts: what a plug-in declares in addition to its constructor's arguments.

    Attributes:
        kind: Kind of the plug-ins of a contract, such as ``pooling``; defined by the contract.
        registry_name: Name of the plug-in in settings; set by the registry.
        published: Value of ``weights`` for published weights, suggested if the settings contain none; empty for a
            network that is trained from scratch.
        files: Settings that may be the name of a file, each with a regular expression for values that are not (such as
            a config that is part of a library). A model folder, which may be from an untrusted source, is refused if
            its settings name a file.
    """

    kind: ClassVar[str] = ""
    registry_name: ClassVar[str] = ""
    published: ClassVar[str] = ""
    files: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @staticmethod
    def stand_alone(settings: Mapping[str, object]) -> dict[str, object]:
        """Convert complete settings to the form that is saved, which has the same meaning on another machine.

        A plug-in that can be configured by a file inserts the file's content; one whose behaviour depends on installed
        packages inserts its choice.

        Args:
            settings: ``{"name": ..., **all arguments}``.
        """
        return dict(settings)


def plugin(cls: C) -> C:
    """Mark the one class of a plug-in module of objemb."""
    cls.registry_name = cls.__module__.rsplit(".", 1)[-1]
    return cls


def names(kind: str) -> tuple[str, ...]:
    """Names of all plug-ins of a kind, sorted. Only the package of the kind is imported."""
    return tuple(sorted({*_own(kind), *(o.name for o in outside() if o.kind == kind)}))


@overload
def load(kind: type[P], name: str) -> type[P]: ...
@overload
def load(kind: str, name: str) -> type[Plugin]: ...
def load(kind: str | type[Plugin], name: str) -> type[Plugin]:
    """The class of a plug-in.

    Args:
        kind: A kind, or its contract.
        name: Name of the plug-in in settings.

    Raises:
        ValueError: There is no such plug-in; the message lists the known ones.
        PluginError: Two packages define this name, or it cannot be imported.
        TypeError: The file does not contain exactly one marked class, or the class is of another kind.
    """
    kind = kind if isinstance(kind, str) else kind.kind
    checks.one_of(f"{kind} name", name, names(kind))
    brought = origin(kind, name)
    where = f"objemb/{kind.replace('.', '/')}/{name}.py" if brought is None else f"{kind}/{name}: {brought}"
    loaded = _marked(kind, name, where) if brought is None else brought.load()
    if not isinstance(loaded, type) or not issubclass(loaded, Plugin) or loaded.kind != kind:
        error = TypeError if brought is None else PluginError
        raise error(f"{where}: expected a class with the contract of {kind} as a base, found {loaded!r}")
    if brought is not None:
        loaded.registry_name = name
    return loaded


def origin(kind: str, name: str) -> Origin | None:
    """The origin of a plug-in of another package; None for one of objemb.

    Raises:
        PluginError: Two packages define this name.
    """
    brought = [o for o in outside() if (o.kind, o.name) == (kind, name)]
    claims = [*([f"objemb/{kind.replace('.', '/')}/{name}.py"] if name in _own(kind) else []), *map(str, brought)]
    if len(claims) > 1:
        raise PluginError(
            f"{kind}/{name}: expected one plug-in of this name, found {' and '.join(claims)}; uninstall one package"
        )
    return brought[0] if brought else None


def _own(kind: str) -> list[str]:
    """Names of the plug-ins of objemb itself."""
    package = importlib.import_module(f"objemb.{checks.one_of('kind', kind, tuple(KINDS.values()))}")
    modules = (m.name for m in pkgutil.iter_modules(package.__path__))
    return [n for n in modules if n not in CONTRACTS and not n.startswith("_")]


def _marked(kind: str, name: str, where: str) -> type:
    """The marked class of a plug-in's file.

    Raises:
        TypeError: There is none, or more than one.
        ModuleNotFoundError: It needs PyTorch, which is not installed; the message says so.
    """
    try:
        module = importlib.import_module(f"objemb.{kind}.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        message = f"{kind}: {name!r} needs PyTorch: pip install 'objemb[torch]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    marked = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and "registry_name" in vars(c)
    ]
    if len(marked) != 1:
        raise TypeError(f"{where}: expected one class marked @plugin, found {len(marked)}")
    return marked[0]
