"""Plug-ins of other packages, listed by their entry points without importing them."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from objemb.checks import ObjembError

log = logging.getLogger(__name__)

#: Prefix of the groups of entry points, followed by the kind, as in ``objemb.pooling``.
PREFIX = "objemb."


class PluginError(ObjembError):
    """A plug-in of another package cannot be used. The message names the package and the module."""


@dataclass(frozen=True)
class Origin:
    """The entry point of a plug-in, and the package that it comes from.

    Attributes:
        kind: Kind of the plug-in, such as ``pooling``.
        name: Name of the plug-in in settings.
        package: Name of the installed distribution.
        version: Version of the distribution.
        entry: The entry point.
    """

    kind: str
    name: str
    package: str
    version: str
    entry: metadata.EntryPoint

    def __str__(self) -> str:
        return f"{self.entry.value} of the package {self.package} {self.version}"

    def load(self) -> object:
        """Import the object of the entry point.

        Raises:
            PluginError: It cannot be imported.
        """
        try:
            return self.entry.load()
        except Exception as error:  # other packages may raise anything; the remaining plug-ins must stay usable
            raise PluginError(
                f"{self.kind}/{self.name}: expected {self} to be importable, found {type(error).__name__}: {error}"
            ) from error


def outside() -> tuple[Origin, ...]:
    """All plug-ins of other packages, sorted by kind, name and package."""
    return _installed(tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> tuple[Origin, ...]:
    """The plug-ins of the packages on an import path."""
    del path  # the path that importlib.metadata searches; here it is only the key of the cache
    packages: dict[str, list[Origin]] = {}
    for distribution in metadata.distributions():
        package = f"a package in {distribution.locate_file('')}"
        try:
            if f"[{PREFIX}" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            package = str(distribution.name)
            origins = list(_origins(distribution))
        except Exception as error:  # a damaged package must not affect the others
            log.warning("%s: its entry points cannot be read: %s", package, error)
            continue
        # of a package that is installed twice, the first one on the path is imported
        packages.setdefault(re.sub(r"[-_.]+", "-", package).lower(), origins)
    plugins = (origin for of_package in packages.values() for origin in of_package)
    return tuple(sorted(plugins, key=lambda o: (o.kind, o.name, o.package)))


def _origins(distribution: metadata.Distribution) -> Iterator[Origin]:
    for entry in distribution.entry_points:
        if entry.group.startswith(PREFIX):
            kind = entry.group.removeprefix(PREFIX)
            yield Origin(kind, entry.name, distribution.name, distribution.version, entry)
