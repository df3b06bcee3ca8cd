"""What plug-ins there are: names and classes.

A *kind* is a package of objemb (``"backbones"``, ``"pooling"`` ...). Each module in it holds exactly one class marked
with :func:`plugin`, except ``base``, which holds the contract, and those that start with an underscore; the file name
is the name in settings. Nothing has to be listed anywhere, and a plug-in with a heavy dependency costs nothing until it
is named.

Other packages bring plug-ins by entry points of the group ``objemb.<kind>``:

.. code-block:: toml

    [project.entry-points."objemb.pooling"]
    lp = "my_package.lp:Lp"

They are listed and loaded as those of objemb are, and imported when they are first asked for. A name that two packages
claim, or a package and objemb, belongs to neither: asking for it is an error that names both.
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
    "runtime": "runtimes",
}

#: Modules of a kind's package that hold contracts: of the kind, of plug-ins that can do more, of what they open. Other
#: modules that are no plug-ins begin with an underscore.
CONTRACTS = ("base", "capabilities", "exported")


class Plugin:
    """What every contract derives from: what a plug-in says of itself, beside its constructor's arguments.

    Attributes:
        kind: Where plug-ins of a contract are found, such as ``pooling``; the contract says so.
        registry_name: The name in settings; set by the registry.
        published: The value of ``weights`` that names published weights, for the error where settings name none;
            empty for a network that is trained from scratch.
        files: Settings that may name a file, each with a regular expression of the texts that name none (such as a
            config that comes with a library). Settings in a model folder, which may come from a stranger, are refused
            where they name a file.
    """

    kind: ClassVar[str] = ""
    registry_name: ClassVar[str] = ""
    published: ClassVar[str] = ""
    files: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @staticmethod
    def stand_alone(settings: Mapping[str, object]) -> dict[str, object]:
        """Complete settings as they are saved: such that they mean the same on another machine, without files.

        A plug-in that may be configured by a file puts the file's content here; one that chooses by what is installed,
        its choice.

        Args:
            settings: ``{"name": ..., **all arguments}``.
        """
        return dict(settings)


def plugin(cls: C) -> C:
    """Mark the one class of a plug-in module of objemb."""
    cls.registry_name = cls.__module__.rsplit(".", 1)[-1]
    return cls


def names(kind: str) -> tuple[str, ...]:
    """Names of all plug-ins of a kind, sorted. Nothing is imported but the package of the kind itself."""
    return tuple(sorted({*_own(kind), *(o.name for o in outside() if o.kind == kind)}))


@overload
def load(kind: type[P], name: str) -> type[P]: ...
@overload
def load(kind: str, name: str) -> type[Plugin]: ...
def load(kind: str | type[Plugin], name: str) -> type[Plugin]:
    """The class of a plug-in.

    Args:
        kind: A kind, or the contract of one.
        name: Name in settings.

    Raises:
        ValueError: There is no such plug-in; the known ones are listed.
        PluginError: Two packages have one of this name, or it cannot be imported.
        TypeError: A file of objemb without exactly one marked class, or with one of another kind.
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
    """Where a plug-in of another package comes from; None for one of objemb.

    Raises:
        PluginError: Two packages have one of this name.
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
    """The one class of a file that is marked."""
    module = importlib.import_module(f"objemb.{kind}.{name}")
    marked = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and "registry_name" in vars(c)
    ]
    if len(marked) != 1:
        raise TypeError(f"{where}: expected one class marked @plugin, found {len(marked)}")
    return marked[0]
