"""The import direction: a line of the table may import the lines above it, its own package, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import objemb

LINES = [
    {"version", "threads", "types", "checks", "disk", "text"},
    {"structures", "registry", "devices", "card"},
    {"ops"},
    {"coco"},
    {"images"},
    {"runtimes"},
    {"visualize"},
    {"layers", "weights"},
    {"backbones"},
    {"pooling", "losses"},
    {"heads"},
    {"detectors"},
    {"extractors"},
    {"local_features"},
    {"regions"},
    {"describers"},
    {"aggregators"},
    {"index"},
    {"rerank"},
    {"datasets"},
    {"config"},
    {"models"},
    {"evaluation"},
    {"training", "export", "search"},
    {"serve"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, line in enumerate(LINES) for room in line}
ROOT = Path(objemb.__file__).parent
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"

# Packages, or parts of packages, that only one file each may import, inside the function that needs them.
# Classes of Detectron2 and Lightning have to be subclassed, hence private files, themselves imported inside functions.
DETECTRON2 = {
    f"detectors/_detectron2_{name}.py"
    for name in (
        *("boxes", "config", "exchange", "heads", "lazy", "losses", "network", "program", "script", "trunk", "weights"),
    )
}
TRAINING = "training/_detectron2.py"
LIGHTNING = "training/_lightning.py"
# FastAPI and pydantic read the annotations of functions and classes when these are defined.
SERVING = {f"serve/_{name}.py" for name in ("app", "bodies", "server")}
SUBCLASSING = {*DETECTRON2, TRAINING, LIGHTNING, *SERVING}
FOREIGN = {
    "faiss": {"ops/faiss.py"},
    "psycopg": {"index/stores/postgresql.py"},
    "lancedb": {"index/stores/lance.py"},
    "qdrant_client": {"index/stores/qdrant.py"},
    "numba": {"ops/numba.py"},
    "timm": {"backbones/timm_net.py"},
    "transformers": {"detectors/_transformers.py"},
    "huggingface_hub": {"backbones/timm_net.py", "models/hub.py"},
    "filelock": {"training/run_folder.py"},
    "lightning": {LIGHTNING},
    "tensorboard": {"training/logger.py"},
    "matplotlib": {"visualize/plots.py"},
    "pycocotools": {"evaluation/average_precision.py"},
    "detectron2": {"detectors/detectron2_rcnn.py", TRAINING, *DETECTRON2},
    "cv2": {"ops/opencv.py"},
    "scipy.io": {"datasets/benchmarks/_matlab.py"},
    "scipy.ndimage": {"ops/components.py"},
    "scipy.sparse": {"rerank/_graph.py"},
    "pandas": {"structures/result_table.py"},
    "onnxruntime": {"export/quantize.py", "runtimes/onnxruntime.py"},
    "openvino": {"runtimes/openvino.py", "export/writers.py"},
    "onnx": {"export/quantize.py", "export/writers.py"},
    "onnxscript": {"export/writers.py"},
    "yaml": {"config.py"},
    "fsspec": {"images/object_stores.py"},
    "ray": {"search/executors/ray.py"},
    "fastapi": {"serve/_app.py"},
    "starlette": {"serve/_app.py"},
    "pydantic": {"serve/_bodies.py"},
    "uvicorn": {"serve/_server.py"},
    "prometheus_client": {"serve/metrics.py"},
}
# What an exported model is indexed, searched and served with needs no PyTorch. These files import it, inside functions,
# where it is installed or asked for: tensors of a caller, archives of torch.export, and jobs with a model of PyTorch.
WITHOUT_TORCH = {
    *("version", "threads", "types", "checks", "disk", "text", "structures", "registry", "card", "coco", "images"),
    *("runtimes", "index", "datasets", "config", "search", "serve"),
}
OF_TORCH = {"images/inputs.py", "runtimes/torch.py", "search/blocks.py", "structures/fields.py"}


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


def rooms_of(table: str) -> list[set[str]]:
    """The rooms of each row of a table in Markdown: the names in code of its first cell."""
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [{name.rstrip("/") for name in re.findall(r"`([^`]+)`", row.split("|")[1])} for row in rows[2:]]


def test_the_table_of_the_design_is_the_one_that_is_checked() -> None:
    section = DESIGN.read_text(encoding="utf-8").partition("\n## Rooms\n")[2].partition("\n## ")[0]
    there = {room_of(path) for path in files()}
    assert rooms_of(section) == [line & there for line in LINES]


def test_rooms_of_a_table() -> None:
    table = "| room | what | imports |\n|---|---|---|\n| `a`, `b/` | uses `c` | |\n| `d` | | earlier rows |\n"
    assert rooms_of(table) == [{"a", "b"}, {"d"}]


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


def test_the_parts_of_the_index_point_one_way() -> None:
    """Storage knows neither engines nor filters, and neither of those the other; what joins them stands beside them."""
    joining = {"store", "searcher", "structures", "results", "dense_rows"}
    forbidden = {
        "storage": {"engines", "filters", *joining},
        "engines": {"filters", *joining},
        "filters": {"engines", *joining},
    }
    for part, others in forbidden.items():
        for path in sorted((ROOT / "index" / part).rglob("*.py")):
            names = [name.split(".") for name, _ in imports_of(path)]
            wrong = [".".join(n) for n in names if n[:2] == ["objemb", "index"] and n[2] in others]
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_foreign_libraries_are_imported_in_one_file_inside_a_function() -> None:
    wrong = []
    for path in files():
        where = str(path.relative_to(ROOT))
        for name, top in imports_of(path):
            parts = name.split(".")
            library = parts[0] if parts[0] in FOREIGN else ".".join(parts[:2])
            top = top and library != "yaml" and where not in SUBCLASSING
            known = library in FOREIGN or any(other.startswith(f"{parts[0]}.") for other in FOREIGN)
            if known and (where not in FOREIGN.get(library, ()) or top):
                wrong.append(f"{where} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_what_runs_exported_models_imports_no_pytorch() -> None:
    wrong = []
    for path in files():
        where = str(path.relative_to(ROOT))
        for name, top in imports_of(path):
            of_torch = name.partition(".")[0] in ("torch", "torchvision")
            if room_of(path) in WITHOUT_TORCH and of_torch and (top or where not in OF_TORCH):
                wrong.append(f"{where} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_what_subclasses_foreign_classes_is_imported_inside_functions() -> None:
    private = {f"objemb.{name.removesuffix('.py').replace('/', '.')}" for name in SUBCLASSING}
    for path in files():
        if str(path.relative_to(ROOT)) not in SUBCLASSING:
            found = [name for name, top in imports_of(path) if top and {name, name.rpartition(".")[0]} & private]
            assert not found, f"{path} imports {found}"


def test_ops_hold_functions_and_plain_classes_but_no_networks() -> None:
    modules = {"Module", "Fitted", "Frozen", "Plugin"}
    for path in sorted((ROOT / "ops").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bases = {
            ast.unparse(base).rpartition(".")[2]
            for c in ast.walk(tree)
            if isinstance(c, ast.ClassDef)
            for base in c.bases
        }
        assert not bases & modules, f"{path}: expected pure functions, found a class derived from {bases & modules}"
