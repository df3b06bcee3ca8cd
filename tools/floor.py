"""Prints a constraint for every dependency: the lowest version that pyproject.toml admits.

    python tools/floor.py > constraints.txt
    pip install --constraint constraints.txt --editable ".[all]"

``make test-floor`` runs the tests in such an environment, and in one of the newest versions.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
#: What development alone needs may be as new as it likes.
LEFT_OUT = ("dev",)
_FLOOR = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*>=\s*(?P<version>[0-9.]+)")


def constraints(project: Path = PROJECT) -> Iterator[str]:
    """``name==version`` of each dependency and those of the extras, once.

    Raises:
        ValueError: A dependency without a lowest version, which nothing could be tested with.
    """
    settings = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = settings["optional-dependencies"]
    groups = [settings["dependencies"], *(lines for extra, lines in extras.items() if extra not in LEFT_OUT)]
    for line in dict.fromkeys(line for group in groups for line in group):
        if line.startswith(f"{settings['name']}["):
            continue
        found = _FLOOR.match(line)
        if found is None:
            raise ValueError(f"{project.name}: expected a lowest version such as numpy>=2.1, found {line!r}")
        yield f"{found['name']}=={found['version']}"


if __name__ == "__main__":
    print(*constraints(), sep="\n")
