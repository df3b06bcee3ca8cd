"""Plug-ins that other packages bring: their entry points, found without importing anything."""

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

#: Groups of entry points begin with this; what follows is the kind, as in ``objemb.pooling``.
PREFIX = "objemb."


class PluginError(ObjembError):
    """A plug-in of another package cannot be used. The message names the package and the module."""


@dataclass(frozen=True)
class Origin:
    """The entry point of a plug-in, and the package that it comes from.

    Attributes:
        kind: What kind of plug-in it is, such as ``pooling``.
        name: Its name in settings.
        package: Name of the installed distribution.
        version: Of the distribution.
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
        """What the entry point names.

        Raises:
            PluginError: It cannot be imported, for whatever reason.
        """
        try:
            return self.entry.load()
        except Exception as error:  # anything may go wrong in foreign code; others must stay usable
            raise PluginError(
                f"{self.kind}/{self.name}: expected {self} to be importable, found {type(error).__name__}: {error}"
            ) from error


def outside() -> tuple[Origin, ...]:
    """All plug-ins of other packages, sorted by kind, name and package."""
    return _installed(tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> tuple[Origin, ...]:
    """The plug-ins of the packages on a path of imports."""
    del path  # where importlib.metadata looks: another path, another answer
    packages: dict[str, list[Origin]] = {}
    for distribution in metadata.distributions():
        package = f"a package in {distribution.locate_file('')}"
        try:
            if f"[{PREFIX}" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            package = str(distribution.name)
            origins = list(_origins(distribution))
        except Exception as error:  # one damaged package must not cost the others
            log.warning("%s: its entry points cannot be read: %s", package, error)
            continue
        # a package that is installed twice is imported from the first place
        packages.setdefault(re.sub(r"[-_.]+", "-", package).lower(), origins)
    plugins = (origin for of_package in packages.values() for origin in of_package)
    return tuple(sorted(plugins, key=lambda o: (o.kind, o.name, o.package)))


def _origins(distribution: metadata.Distribution) -> Iterator[Origin]:
    for entry in distribution.entry_points:
        if entry.group.startswith(PREFIX):
            kind = entry.group.removeprefix(PREFIX)
            yield Origin(kind, entry.name, distribution.name, distribution.version, entry)
