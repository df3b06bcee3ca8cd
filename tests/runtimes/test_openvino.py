from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from objemb.models.exported import open_exported
from objemb.runtimes.exported import PHOTOS
from objemb.runtimes.openvino import OpenVino
from objemb.threads import usable_threads
from tests.runtimes.graphs import write_exported
from tests.runtimes.models import write_model

openvino = pytest.importorskip("openvino")

#: A signal after a model is gone, in a process of its own.
SIGNAL = """
import gc, signal, sys
from pathlib import Path
from objemb.models.exported import open_exported
model = open_exported(Path(sys.argv[1]), runtime="openvino", threads=1)
del model
gc.collect()
signal.signal(signal.SIGTERM, lambda number, frame: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""

#: A model opened and run where PyTorch is limited to AVX2.
LIMITED = """
import os, sys
from pathlib import Path
import numpy as np
from objemb.models.exported import open_exported
model = open_exported(Path(sys.argv[1]), runtime="openvino", precision="bf16", threads=1)
described = model.describe(np.full((8, 8, 3), 128, np.uint8))
print(os.environ["ONEDNN_MAX_CPU_ISA"], len(described.vectors))
"""


def test_signals_are_heard_after_a_model_is_gone(tmp_path: Path) -> None:
    """OpenVINO frees the stack on which the thread handles signals together with the core that made it."""
    folder = write_model(tmp_path / "m")
    ended = subprocess.run([sys.executable, "-c", SIGNAL, str(folder)], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.returncode) == ("heard\n", 0), ended.stderr


def test_a_limit_for_pytorch_does_not_reach_openvino(tmp_path: Path) -> None:
    """On a processor with AVX-512 it would be refused: "could not create a primitive descriptor"."""
    folder = write_model(tmp_path / "m", detector=False)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.stdout, ended.returncode) == ("AVX2 1\n", 0), ended.stderr


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_boxes_are_computed_in_single_precision_alone(precision: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    message = (
        f"expected 'fp32' for a model with a detector, whose boxes would be pixels off otherwise, found '{precision}'"
    )
    with pytest.raises(ValueError, match=message):
        open_exported(folder, runtime="openvino", precision=precision)
    assert open_exported(folder, runtime="openvino").precision == "fp32"


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("fp16", "f16")])
def test_precision_and_threads_are_always_set(
    precision: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, OpenVINO takes bfloat16 by itself on processors with AMX."""
    asked: list[dict[str, Any]] = []
    compile_model = openvino.Core.compile_model

    def compiled(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        asked.append(settings)
        return compile_model(core, model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    exported, card = write_exported(tmp_path / "m", "openvino")
    OpenVino(precision=precision, threads=1).open(PHOTOS, exported, card, tmp_path / "m")
    OpenVino(precision=precision, threads=6).open(PHOTOS, exported, card, tmp_path / "m")
    OpenVino(precision=precision).open(PHOTOS, exported, card, tmp_path / "m")
    assert [settings["INFERENCE_PRECISION_HINT"] for settings in asked] == [hint] * 3
    assert [settings["INFERENCE_NUM_THREADS"] for settings in asked] == [1, 6, usable_threads()]
    assert [settings["NUM_STREAMS"] for settings in asked][:2] == [1, 4]


class Processor:
    """A core whose processor lacks some precisions, and takes others for them."""

    def __init__(self, capable: list[str], taken: dict[str, str]) -> None:
        self._core, self._capable, self._taken = openvino.Core(), capable, taken

    def get_property(self, device: str, name: str) -> Any:
        return self._capable if name == "OPTIMIZATION_CAPABILITIES" else self._core.get_property(device, name)

    def read_model(self, **contents: Any) -> Any:
        return self._core.read_model(**contents)

    def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
        hint = self._taken[settings["INFERENCE_PRECISION_HINT"]]
        return self._core.compile_model(model, device, {**settings, "INFERENCE_PRECISION_HINT": hint})


def test_a_processor_without_the_precision_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model says in what it computes, a warning that it is not what was asked for."""
    lacking = Processor(["FP32", "INT8"], {"f32": "f32", "bf16": "f32", "f16": "f32"})
    monkeypatch.setattr("objemb.runtimes.openvino.shared_core", lambda _: lacking)
    assert OpenVino.precisions_here() == ("fp32",)
    folder = write_model(tmp_path / "m", detector=False)
    model = open_exported(folder, runtime="openvino", precision="bf16")
    assert model.precision == model.about["precision"] == model.computation["precision"] == "fp32"
    assert "expected this processor to compute in bf16, found fp32, in which openvino computes instead" in next(
        record.message for record in caplog.records if record.levelno >= logging.WARNING
    )
    caplog.clear()
    assert open_exported(folder, runtime="openvino").precision == "fp32"
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_precisions_of_this_processor_are_computed_in(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", detector=False)
    for precision in OpenVino.precisions_here():
        assert open_exported(folder, runtime="openvino", precision=precision).precision == precision
