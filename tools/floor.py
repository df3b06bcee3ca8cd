"""Print the lowest version of every dependency that pyproject.toml allows, as constraints for pip.

    python tools/floor.py > constraints.txt
    pip install --constraint constraints.txt --editable ".[all]"

``make test-floor`` runs the tests in such an environment, and in one with the newest versions.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
#: Tools of development need no lowest version.
LEFT_OUT = ("dev",)
_FLOOR = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*>=\s*(?P<version>[0-9.]+)")


def constraints(project: Path = PROJECT) -> Iterator[str]:
    """``name==version`` of each dependency, including those of the extras, each once.

    Raises:
        ValueError: A dependency has no lowest version.
    """
    settings = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = settings["optional-dependencies"]
    groups = [settings["dependencies"], *(lines for extra, lines in extras.items() if extra not in LEFT_OUT)]
    for line in dict.fromkeys(line for group in groups for line in group):
        if line.startswith(f"{settings['name']}["):
            continue
        floor = _FLOOR.match(line)
        if floor is None:
            raise ValueError(f"{project.name}: expected a lowest version such as numpy>=2.1, found {line!r}")
        yield f"{floor['name']}=={floor['version']}"


if __name__ == "__main__":
    print(*constraints(), sep="\n")
