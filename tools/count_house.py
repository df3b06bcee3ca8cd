"""Count the figures of the table in docs/design.md: rooms, imports, sizes, start-up times, files to touch.

    python tools/count_house.py            # a table in Markdown
    python tools/count_house.py --json

Processor times are the least of several runs. *Files to touch* are counted by experiment: a plug-in of each kind is
added to a copy of the checkout together with its tests, and the contract tests have to find it and to pass.
"""

from __future__ import annotations

import argparse
import ast
import cProfile
import importlib.metadata
import json
import os
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from objemb.threads import wait_without_spinning

wait_without_spinning()
CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "objemb"
#: A module with fewer lines should be a plug-in or the ``__init__.py`` of a package.
SHORT = 30
RUNS = 3

#: Rooms, and parts of rooms, that a reader who follows a search need not open: checks, data types, readers, arithmetic.
HELPERS = (
    *("checks", "devices", "disk", "registry", "text", "threads", "types", "version"),
    *("images", "index.storage", "layers", "ops", "structures"),
)

#: Kinds of plug-ins, and for each the plug-in from which the added one is derived.
ADDED = {
    "pooling": "gem",
    "rerank": "query_expansion",
    "training.tasks": "classify",
    "index.engines": "exact",
    "local_features": "sift",
    "runtimes": "onnxruntime",
}
PLUGIN = '''"""A plug-in that was added."""

from objemb.{kind}.{name} import {base}
from objemb.registry import plugin


@plugin
class Added({base}):
    """Does what :class:`{base}` does."""
'''
TEST = '''"""Tests of the plug-in that was added."""

from tests.{kind}.test_{name} import *  # noqa: F403
'''


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--fast", action="store_true", help="leave out the figures that need other programs to run")
    options = parser.parse_args(argv)
    counts = {**sizes(), **arrows(), **walk()}
    if not options.fast:
        counts |= {**times(), **weights(), **touched()}
    if options.json:
        print(json.dumps(counts, indent=1))
        return
    print("| counted by `python tools/count_house.py` | |\n|---|---:|")
    for name, value in counts.items():
        print(f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |")


def files() -> Iterator[tuple[Path, str]]:
    """Every module of the package, and its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.read_text(encoding="utf-8")


def sizes() -> dict[str, Any]:
    """Modules and lines, short modules, and places that the type checker does not check."""
    lengths = {path: text.count("\n") for path, text in files()}
    faces = {PACKAGE / "__main__.py", *entry_points()}
    short = [
        path
        for path, text in files()
        if lengths[path] < SHORT and path.name != "__init__.py" and path not in faces and not _is_plugin(text)
    ]
    names = [node for _, text in files() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    return {
        "modules": len(lengths),
        "lines": sum(lengths.values()),
        "lines of the longest module": max(lengths.values()),
        f"modules below {SHORT} lines that are neither plug-ins nor faces of packages": len(short),
        "uses of `Any`": sum(name.id == "Any" for name in names),
        "`type: ignore`": sum(text.count("# type: ignore") for _, text in files()),
    }


def entry_points() -> Iterator[Path]:
    """The modules behind the commands that an installation makes."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for place in project["scripts"].values():
        yield CHECKOUT / f"{place.partition(':')[0].replace('.', '/')}.py"


def _is_plugin(text: str) -> bool:
    return re.search(r"^@plugin$", text, re.MULTILINE) is not None


def arrows() -> dict[str, Any]:
    """The number of rooms, and of pairs of rooms of which one imports the other."""
    pairs = set()
    for path, text in files():
        room = _room(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("objemb."):
                pairs.add((room, node.module.split(".")[1]))
    rooms = {_room(path) for path, _ in files() if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")}
    imports = {pair for pair in pairs if pair[0] != pair[1] and pair[1] in rooms and pair[0] in rooms}
    mutual = {(a, b) for a, b in imports if (b, a) in imports}
    return {
        "rooms": len(rooms),
        "arrows between rooms": len(imports),
        "pairs of rooms with arrows both ways": len(mutual) // 2,
    }


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def walk() -> dict[str, Any]:
    """The number of modules called between a photo with a box and its answer, and of those a reader has to open."""
    called = modules_called()
    return {
        "files to open to follow a photo with a box to its answer": len(called) - len(helpers(called)),
        "modules with a call between a photo with a box and its answer": len(called),
    }


def helpers(modules: Collection[str]) -> set[str]:
    """The modules that belong to :data:`HELPERS`."""
    return {m for m in modules if any(m == f"objemb.{h}" or m.startswith(f"objemb.{h}.") for h in HELPERS)}


def modules_called() -> set[str]:
    """The modules of objemb with a call during the first search with a box in an index that has just been opened.

    The method is ``hard_attention_crop`` with a small network, the search is exact, and the photo is a file.
    """
    import numpy as np
    from PIL import Image

    import objemb
    from objemb.config import load_config
    from objemb.models.build import build_model
    from objemb.structures.described import expect_vectors

    small = ("backbone.arch=squeezenet1_1", "backbone.weights=random", "extractor.size=33")
    model = build_model(load_config("hard_attention_crop", small))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        photo, place = Path(folder) / "photo.jpg", Path(folder) / "index"
        Image.fromarray(pixels).save(photo)
        index = objemb.Index.create(place, schema=objemb.UnitVectors(model.dim), fingerprint=model.fingerprint)
        with index.writer() as writer:
            for described in model.stream([photo, pixels[:, ::-1].copy()]):
                writer.add(expect_vectors("count_house", described))
        retrieval = objemb.Retrieval(model, objemb.Index.open(place))
        profile = cProfile.Profile()
        profile.enable()
        answer = retrieval.search(photo, [(10, 10, 50, 40)], k=2)
        profile.disable()
    if len(answer) != 2:
        raise RuntimeError(f"search: expected both photos, found {answer}")
    files = {Path(file) for file, _, _ in pstats.Stats(profile).stats}  # type: ignore[attr-defined]
    inside = (file.relative_to(CHECKOUT) for file in files if file.is_relative_to(PACKAGE))
    return {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in inside}


def times() -> dict[str, Any]:
    """Processor time of the first commands of a new user, in seconds."""
    import objemb

    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        objemb.Index.create(index, schema=objemb.UnitVectors(4), fingerprint="some")
        commands = {
            "`import objemb`": ["-c", "import objemb"],
            "`objemb --help`": ["-m", "objemb", "--help"],
            "`objemb info INDEX`": ["-m", "objemb", "info", str(index)],
            "`objemb search --help`": ["-m", "objemb", "search", "--help"],
        }
        return {f"processor seconds of {name}": f"{_seconds(arguments):.2f}" for name, arguments in commands.items()}


def _seconds(arguments: Sequence[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    least = float("inf")
    for _ in range(RUNS):
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        least = min(least, used)
    return least


def weights() -> dict[str, Any]:
    """MB on disk of the package's dependencies, with and without PyTorch, as installed here."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = _closure({_name(line) for line in project["dependencies"]})
    torch = _closure({_name(line) for line in project["optional-dependencies"]["torch"]})
    return {
        "MB on the disk of what `pip install objemb` brings": round(_bytes(needed) / 2**20),
        "MB that `objemb[torch]` adds": round(_bytes(torch - needed) / 2**20),
    }


def _name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~(;]", requirement.strip(), maxsplit=1)[0].lower()


def _needed_by(name: str) -> set[str]:
    """The dependencies of a distribution on this machine, without extras."""
    lines = [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    return {_name(line) for line in lines}


def _closure(names: set[str]) -> set[str]:
    """Distributions and all their dependencies, as far as they are installed."""
    known: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        known.add(name)
        waiting |= _needed_by(name) - known
    return known


def _bytes(names: set[str]) -> int:
    """The size of distributions on disk."""
    total = 0
    for name in names:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            total += path.stat().st_size if path.is_file() else 0
    return total


def touched() -> dict[str, Any]:
    """The number of files that have to be written or changed for another plug-in, by kind."""
    return {f"files to touch for another plug-in of `{kind}`": _added(kind, name) for kind, name in ADDED.items()}


def _added(kind: str, name: str) -> int:
    """Add a plug-in and its test to a copy of the checkout and run the contract tests on it.

    Returns:
        The number of files that were written.

    Raises:
        RuntimeError: The contract tests do not find the plug-in, or fail.
    """
    from objemb import registry

    with tempfile.TemporaryDirectory() as folder:
        for part in ("objemb", "tests"):
            shutil.copytree(CHECKOUT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__"))
        texts = {"kind": kind, "name": name, "base": registry.load(kind, name).__name__}
        path = kind.replace(".", "/")
        written = {f"objemb/{path}/added.py": PLUGIN, f"tests/{path}/test_added.py": TEST}
        for file, text in written.items():
            (Path(folder) / file).write_text(text.format(**texts), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "tests/contracts",
            "-k",
            "added",
        ]
        environment = {**os.environ, "PYTHONPATH": folder}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:  # 5 means that no test was found
            raise RuntimeError(
                f"{kind}: expected the contract tests of the added plug-in to pass, found\n{done.stdout}"
            )
    return len(written)


if __name__ == "__main__":
    main()
