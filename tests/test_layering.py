"""The import direction: a line of the table may import the lines above it, its own package, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import objemb

LINES = [
    {"version", "threads", "checks"},
    {"structures", "registry"},
    {"images", "ops"},
    {"backbones", "detectors", "pooling", "heads", "losses"},
    {"extractors"},
    {"regions"},
    {"describers"},
    {"aggregators"},
    {"index"},
    {"rerank"},
    {"datasets", "evaluation"},
    {"training", "export"},
    {"config"},
    {"models"},
    {"serve", "cli"},
]
LEVEL = {room: level for level, line in enumerate(LINES) for room in line}
ROOT = Path(objemb.__file__).parent

# Packages that only one file each may import, inside the function that needs them.
FOREIGN = {
    "faiss": {"index/ivf.py"},
    "timm": {"backbones/timm_net.py"},
    "huggingface_hub": {"backbones/timm_net.py"},
    "pycocotools": set(),
    "detectron2": set(),
    "yaml": {"config.py"},
}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, at module level) of everything a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(f"{node.module}.{alias.name}", top) for alias in node.names]
    return found


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def test_every_room_has_a_line() -> None:
    assert {room_of(p) for p in files()} <= set(LEVEL)


def test_imports_point_upwards() -> None:
    wrong = []
    for path in files():
        room = room_of(path)
        for name, _ in imports_of(path):
            parts = name.split(".")
            if parts[0] != "objemb" or len(parts) == 1:
                continue
            target = parts[1]
            if target in LEVEL and target != room and LEVEL[target] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_foreign_libraries_are_imported_in_one_file_inside_a_function() -> None:
    wrong = []
    for path in files():
        where = str(path.relative_to(ROOT))
        for name, top in imports_of(path):
            library = name.split(".")[0]
            if library in FOREIGN and (where not in FOREIGN[library] or (top and library != "yaml")):
                wrong.append(f"{where} imports {name}")
    assert not wrong, "\n".join(wrong)
