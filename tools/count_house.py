"""Counts what the house is made of, for the table of docs/design.md: rooms, arrows, sizes, imports, files to touch.

    python tools/count_house.py            # a table in Markdown
    python tools/count_house.py --json

Processor times are the least of several runs. *Files to touch* are found by doing it: a plug-in of each kind is added
to a copy of the checkout, with its tests, and the contract tests have to find and pass it.
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
#: A file with fewer lines is a plug-in, the face of a package, or too small.
SHORT = 30
RUNS = 3

#: Rooms, and parts of rooms, that a reader who follows a search need not open: they check, hold, read, calculate.
HELPERS = (
    *("checks", "devices", "disk", "registry", "text", "threads", "types", "version"),
    *("images", "index.storage", "layers", "ops", "structures"),
)

#: Kinds of plug-ins, and one of each that what is added derives from.
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
    parser.add_argument("--fast", action="store_true", help="without the parts that run other programs")
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
    """Lines, short files, and what the type checker is not told."""
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
    """Rooms, and which of them import which."""
    pairs = set()
    for path, text in files():
        room = _room(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("objemb."):
                pairs.add((room, node.module.split(".")[1]))
    rooms = {_room(path) for path, _ in files() if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")}
    found = {pair for pair in pairs if pair[0] != pair[1] and pair[1] in rooms and pair[0] in rooms}
    back = {(a, b) for a, b in found if (b, a) in found}
    return {
        "rooms": len(rooms),
        "arrows between rooms": len(found),
        "pairs of rooms with arrows both ways": len(back) // 2,
    }


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def walk() -> dict[str, Any]:
    """The modules in which anything is called between a photo with a box and the answer, and those to follow it."""
    called = modules_called()
    return {
        "files to open to follow a photo with a box to its answer": len(called) - len(helpers(called)),
        "modules with a call between a photo with a box and its answer": len(called),
    }


def helpers(modules: Collection[str]) -> set[str]:
    """Those of some modules that are in a room of :data:`HELPERS`, or in one of these parts of a room."""
    return {m for m in modules if any(m == f"objemb.{h}" or m.startswith(f"objemb.{h}.") for h in HELPERS)}


def modules_called() -> set[str]:
    """The modules of objemb in which anything is called by the first search with a box in an index that was opened.

    The method is ``hard_attention_crop`` with a small network, the search exact, the photo a file.
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
    """Processor time of what a user types first, in seconds."""
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
    """MB on the disk of what the package needs, with and without PyTorch, as installed here."""
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
    """What a distribution needs on this machine without any extra."""
    lines = [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    return {_name(line) for line in lines}


def _closure(names: set[str]) -> set[str]:
    """Distributions with all that they need, as far as they are installed."""
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
    """What distributions take on the disk."""
    total = 0
    for name in names:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            total += path.stat().st_size if path.is_file() else 0
    return total


def touched() -> dict[str, Any]:
    """Files that have to be written or changed for another plug-in, by kind."""
    return {f"files to touch for another plug-in of `{kind}`": _added(kind, name) for kind, name in ADDED.items()}


def _added(kind: str, name: str) -> int:
    """Add a plug-in and its test to a copy; raises where the contract tests do not find it, or do not pass it.

    Returns:
        The number of files that were written.
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
        if done.returncode:  # 5: no test was found
            raise RuntimeError(f"{kind}: expected contract tests of the added plug-in that pass, found\n{done.stdout}")
    return len(written)


if __name__ == "__main__":
    main()
