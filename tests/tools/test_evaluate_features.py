from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.evaluate import evaluate_described
from objemb.evaluation.retrieval_task import make_task
from objemb.rerank.query_expansion import QueryExpansion
from objemb.structures import ImageRows

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_features.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("objemb.cli.programs.evaluate_features")


def unit(random: np.random.Generator, count: int) -> np.ndarray:
    vectors = random.standard_normal((count, 32)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five queries by the revisited protocol in 40 images, and 1,960 distractors without names."""
    random = np.random.default_rng(0)
    database, queries = unit(random, 2000), unit(random, 5)
    rows = []
    for number, query in enumerate(queries):
        listed = random.choice(40, 12, replace=False)
        for item in listed[:9]:
            database[item] += random.random() * query
        lists = {"easy": listed[:5], "hard": listed[5:9], "junk": listed[9:]}
        relevant = {grade: [f"{n}.jpg" for n in numbers] for grade, numbers in lists.items()}
        rows.append({"file": f"q{number}.jpg", "box": None, "relevant": relevant})
    np.save(tmp_path / "db.npy", database / np.linalg.norm(database, axis=1, keepdims=True))
    np.save(tmp_path / "q.npy", queries)
    images = [{"file": f"{n}.jpg", "instances": []} for n in range(40)]
    (tmp_path / "set.json").write_text(json.dumps({"protocol": "revisited", "images": images, "queries": rows}))
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    return [str(folder / "db.npy"), str(folder / "q.npy"), "--set", str(folder / "set.json"), *more]


def test_figures_are_those_of_the_whole_in_memory(tool: ModuleType, folder: Path) -> None:
    report = tool.main(command(folder, "-o", str(folder / "out" / "out.json")))
    assert json.loads((folder / "out" / "out.json").read_text()) == json.loads(json.dumps(report))
    (result,) = report["results"]
    assert (result["method"], result["storage"]["vectors"], result["dim"]) == ("db", 2000, 32)
    database, queries = np.load(folder / "db.npy"), np.load(folder / "q.npy")
    data = read_evaluation_set(folder / "set.json")
    task = make_task(data)
    for number, (query, relevant) in enumerate(zip(queries, task.relevance, strict=True)):
        order = [n for n in np.argsort(-(database @ query), kind="stable") if n not in relevant.junk]
        ranks = sorted(order.index(n) for n in relevant.positives)
        slow = sum(((j / r if r else 1) + (j + 1) / (r + 1)) / 2 for j, r in enumerate(ranks)) / len(ranks)
        assert result["per_query"][number]["setups"]["medium"]["average_precision"] == pytest.approx(slow)


def test_query_expansion_in_a_database_on_the_disk(tool: ModuleType, folder: Path) -> None:
    result = tool.main(command(folder, "--rerank", "query_expansion,top=3,alpha=2", "--name", "mine"))["results"][0]
    assert (result["method"], result["rerank"]) == ("mine", ["query_expansion,top=3,alpha=2"])
    data = read_evaluation_set(folder / "set.json")
    first = [np.load(folder / name)[:most] for name, most in (("db.npy", 40), ("q.npy", 5))]
    files = [tuple(entry.file for entry in part) for part in (data.images, data.queries)]
    rows = [
        ImageRows(names, v, np.arange(len(v)), np.zeros((len(v), 4), np.float32))
        for names, v in zip(files, first, strict=True)
    ]
    described = DescribedTask(*rows, {"database": 0.0, "queries": 0.0})
    # without the distractors it can only be better
    near = evaluate_described(described, data, make_task(data), rerankers=[QueryExpansion(top=3, alpha=2)])
    assert 0 < result["scores"]["mAP hard"] <= near.scores.means["mAP hard"]
    plain = tool.main(command(folder))["results"][0]
    assert plain["scores"] != result["scores"]


def test_several_rows_of_an_image_and_of_a_query(tool: ModuleType, folder: Path) -> None:
    items, asked = np.repeat(np.arange(1000), 2), np.array([0, 0, 1, 3, 4])
    np.save(folder / "items.npy", items)
    np.save(folder / "asked.npy", asked)
    more = ("--items", str(folder / "items.npy"), "--query-items", str(folder / "asked.npy"))
    result = tool.main(command(folder, *more))["results"][0]
    assert (result["storage"]["vectors_per_image"], result["queries"], result["skipped"]) == (2.0, 4, 1)


def save(folder: Path, name: str, array: Any) -> None:
    np.save(folder / name, array)


@pytest.mark.parametrize(
    ("name", "array", "more", "message"),
    [
        ("db.npy", np.zeros((2000, 32)), (), r"db.npy: expected float32 \(rows, D\), found float64"),
        (
            "db.npy",
            np.zeros((39, 32), np.float32),
            (),
            "expected at least 40 rows, one for each image of the set, found 39",
        ),
        ("db.npy", np.ones((50, 32), np.float32), (), r"expected unit vectors .*, found length 5.657 in row 0"),
        ("db.npy", np.full((50, 32), np.nan, np.float32), (), "found length nan in row 0"),
        ("q.npy", np.zeros((5, 31), np.float32), (), "expected 32 dimensions as in .*db.npy, found 31"),
        ("q.npy", np.zeros((4, 32), np.float32), (), "q.npy: expected 5 queries as in the set, found 4"),
        ("x.npy", np.arange(3), ("--items",), "x.npy: expected 2000 whole numbers, one for each row"),
        ("x.npy", np.arange(2000)[::-1], ("--items",), "x.npy: expected ascending numbers from 0, found others"),
        ("x.npy", np.arange(5) + 1, ("--query-items",), "x.npy: expected 5 queries as in the set, found 6"),
    ],
)
def test_files_that_do_not_go_together(
    tool: ModuleType, folder: Path, name: str, array: Any, more: tuple[str, ...], message: str
) -> None:
    save(folder, name, array)
    with pytest.raises(ValueError, match=message):
        tool.main(command(folder, *more, *([str(folder / name)] if more else [])))


def test_mistakes_end_in_one_line(folder: Path) -> None:
    (folder / "db.npy").write_bytes(b"no numpy")
    ended = subprocess.run([sys.executable, str(TOOL), *command(folder)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "db.npy: expected a NumPy file of numbers, found:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_vectors_in_columns_are_refused(tool: ModuleType, folder: Path) -> None:
    columns = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    save(folder, "db.npy", columns / np.linalg.norm(columns, axis=0))
    with pytest.raises(ValueError, match=r"found length .*; its columns have unit length: transpose it to \(rows, D\)"):
        tool.main(command(folder))
