from __future__ import annotations

import importlib.util
import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.index import word_kernels
from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import VectorBlock
from objemb.index.store import Index
from tests.index.rabitq import NEEDS_RABITQ
from tests.runtimes.models import write_model
from tools.benchmarks import asmk_memory, export
from tools.benchmarks.asmk_memory import CLEAR, DIM, write_words

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_benchmark", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_search_and_rmac_on_tiny_inputs(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    report = tool.main(["--small", "--only", "search,rmac", "--seed", "3", "-o", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert report["command"].endswith("--seed 3 -o " + str(tmp_path / "out.json"))
    assert report["machine"]["threads"] > 0
    search = report["cases"]["search"]["ratios"]
    assert all(r["facts"]["agreement"] == 1 for r in search if "agreement" in r["facts"])
    assert all(r["facts"]["largest_error"] == 0 for r in report["cases"]["rmac"]["ratios"])
    assert "R-MAC pooling" in capsys.readouterr().out


def test_indexing_on_tiny_inputs(tool: ModuleType) -> None:
    ratios = tool.main(["--small", "--only", "indexing"])["cases"]["indexing"]["ratios"]
    assert [r["value"] > 0 for r in ratios] == [True, True]


def test_reranking_on_tiny_inputs(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    from tools.benchmarks import rerank

    monkeypatch.setattr(rerank, "APPROXIMATE_ROWS", 1000)
    ratios = tool.main(["--small", "--only", "rerank"])["cases"]["rerank"]["ratios"]
    assert len(ratios) == 3 * 2 * (1 + 2), "re-rankers, numbers of boxes, and both ways of searching the larger index"
    assert [r["facts"]["searches"] for r in ratios] == [10] * 18
    assert sum(r["wanted"] == "<= 1.5" for r in ratios) == 12
    assert {r["name"].split(", ", 1)[1] for r in ratios} >= {
        "120 rows, 5 boxes, exact",
        "1,200 rows, 1 box, approximate",
    }


@NEEDS_RABITQ
def test_engines_on_tiny_inputs(tool: ModuleType) -> None:
    ratios = tool.main(["--small", "--only", "approximate"])["cases"]["approximate"]["ratios"]
    recalls, times = ratios[:5], ratios[5:]
    assert all(r["value"] >= 0.9 and r["facts"]["bytes_a_row"] > 0 for r in recalls)
    assert len({r["name"] for r in times}) == 2 * len(recalls), "bare FAISS and exact search over each engine"


def test_one_pass_on_tiny_inputs(tool: ModuleType) -> None:
    ratios = tool.main(["--small", "--only", "one_pass"])["cases"]["one_pass"]["ratios"]
    assert len(ratios) == 9
    assert all(r["value"] > 1 for r in ratios[:2])
    assert [r["facts"]["boxes"] for r in ratios] == [3] * 5 + [4] * 4, "the whole photo with those of every size"
    assert [r["wanted"] for r in ratios if r["wanted"]] == ["<= 1.06", ">= 1.3", ">= 2.4", "<= 1.15", "<= 1.15"]


def test_exported_models_on_tiny_inputs(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs made by hand stand for those of an export, which would take most of a minute."""
    for module in ("onnxruntime", "openvino"):
        pytest.importorskip(module)
    monkeypatch.setattr(export, "export_model", lambda model, folder, settings: write_model(folder))
    ratios = tool.main(["--small", "--only", "export"])["cases"]["export"]["ratios"]
    names = [r["name"].removeprefix("tiny: ") for r in ratios]
    assert names[:3] == [
        "a plain loop over PyTorch eager fp32",
        "PyTorch eager fp32 over onnxruntime fp32",
        "a plain loop over onnxruntime fp32",
    ]
    assert {"PyTorch eager fp32 over openvino fp32", "a plain loop over openvino fp32"} == set(names[3:])
    assert all(r["value"] > 0 and r["facts"]["photos"] == 2 for r in ratios)


def test_visual_words_on_tiny_inputs(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("objemb.index.word_kernels.COMPILE_AFTER", 1 << 27)
    ratios = tool.main(["--small", "--only", "asmk"])["cases"]["asmk"]["ratios"]
    memory = ["<= 1", "<= 1"] if CLEAR.exists() else []
    against = [">= 3", "<= 1", ">= 10", "", *memory] * 4 if find_spec("asmk") else []
    growth, forms = ratios[len(against) : -6], {r["name"].split(":")[1]: r["value"] for r in ratios[-6:]}
    assert [r["wanted"] for r in ratios] == [*against, *[""] * 9]
    assert all(r["value"] > 0 for r in growth)
    asmk, r_asmk, items, *with_positions = forms.values()
    assert 1 == asmk < r_asmk < items
    assert np.all(np.array(with_positions) > [asmk, r_asmk, items])


@pytest.mark.skipif(not CLEAR.exists(), reason="the peak of a process is that of Linux")
def test_memory_of_visual_words_on_tiny_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objemb.index.word_kernels.COMPILE_AFTER", 1 << 27)
    monkeypatch.setattr(word_kernels, "_compiled", word_kernels._Compiled())
    monkeypatch.setattr(word_kernels, "compiled_loop", lambda: None)
    random = np.random.default_rng(0)
    for name, count in (("images", 30), ("queries", 2)):
        words = [np.unique(random.integers(0, 50, 20)) for _ in range(count)]
        signs = [random.integers(0, 256, (len(w), DIM // 8), np.uint8) for w in words]
        write_words(tmp_path, name, words, signs, signs)
    assert asmk_memory.main("build", "objemb", tmp_path, 50) >= 0
    assert len(Index.open(tmp_path / "index")) == 30
    assert asmk_memory.main("query", "objemb", tmp_path, 50) >= 0


def test_unknown_cases_are_refused(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--only", "serch"])
    assert (
        "expected some of search, approximate, rerank, rmac, indexing, one_pass, export, asmk, found serch"
        in capsys.readouterr().err
    )


def test_ratios_are_taken_within_a_round() -> None:
    found = ratio("a", [2.0, 30.0, 4.0], [1.0, 10.0, 1.0], ">= 3", more=1)
    assert (found.value, found.low, found.high, found.holds) == (3.0, 2.0, 4.0, True)
    assert found.facts == {"seconds_above": 4.0, "seconds_below": 1.0, "rounds": 3, "more": 1}
    assert Ratio("b", 0.5, "<= 0.4").holds is False
    assert Ratio("c", 0.5).holds is None


def test_sides_alternate() -> None:
    calls: list[str] = []
    times = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warm_up=1)
    assert "".join(calls) == "ababab"
    assert [len(t) for t in times.values()] == [2, 2]


def test_the_baseline_fetches_until_there_are_enough_images() -> None:
    faiss = pytest.importorskip("faiss")
    from tools.benchmarks.search import agreement, grouped_in_python

    random = np.random.default_rng(0)
    rows = random.standard_normal((90, 8)).astype(np.float32)
    rows[:40] = rows[0]
    images = np.r_[np.zeros(40, int), np.repeat(np.arange(1, 26), 2)]
    flat = faiss.IndexFlatIP(8)
    flat.add(rows)
    found = grouped_in_python(flat, images.tolist(), rows[[0, 60, 70]], [0, 0, 1], 5)
    hits = search_exact([VectorBlock(rows, images)], rows[[0, 60, 70]], np.array([0, 0, 1]), 5)
    assert agreement(hits, found) == 1
    assert found[0][0][0] in (0, 11)
    assert len(grouped_in_python(flat, images.tolist(), rows[:1], [0], 50)[0]) == 26
