from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError
from objemb.runtimes.base import Runtime
from objemb.runtimes.exported import PHOTOS
from objemb.runtimes.onnxruntime import OnnxRuntime, onnxruntime_library
from objemb.runtimes.openvino import OpenVino
from objemb.threads import usable_threads
from tests.runtimes.graphs import PROJECTION, onnx_graph, write_exported

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def test_it_reports_nothing_unless_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, expected in ((None, "1"), ("0", "0")):
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
        if said is not None:
            monkeypatch.setenv("ORT_DISABLE_TELEMETRY", said)
        assert onnxruntime_library() is onnxruntime
        assert os.environ["ORT_DISABLE_TELEMETRY"] == expected


def test_threads_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []
    made = onnxruntime.InferenceSession

    def session(content: bytes, options: Any, **others: Any) -> Any:
        spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
        asked.append((options.intra_op_num_threads, spinning))
        return made(content, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    exported, card = write_exported(tmp_path / "m", "onnx")
    OnnxRuntime(threads=3).open(PHOTOS, exported, card, tmp_path / "m")
    OnnxRuntime().open(PHOTOS, exported, card, tmp_path / "m")
    assert asked == [(3, "0"), (usable_threads(), "0")]


@pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVino])
def test_weights_in_another_file_are_refused(
    runtime: type[Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would read it, from the folder that the program stands in, and it has no checksum."""
    graph = onnx_graph(PHOTOS)
    (tensor,) = (t for t in graph.graph.initializer if t.name == "projection")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(PROJECTION.tobytes())
    exported, card = write_exported(tmp_path / "m", "onnx", {"photos.onnx": graph.SerializeToString()})
    with pytest.raises(ArtefactMismatchError, match=r"photos\.onnx: expected a graph with its weights in it, found"):
        runtime().open(PHOTOS, exported, card, tmp_path / "m")


def test_what_it_cannot_run_is_named(tmp_path: Path) -> None:
    graph = onnx_graph(PHOTOS)
    (axes,) = (t for t in graph.graph.initializer if t.name == "sides")
    axes.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 9]), "sides"))
    exported, card = write_exported(tmp_path / "m", "onnx", {"photos.onnx": graph.SerializeToString()})
    session = OnnxRuntime().open(PHOTOS, exported, card, tmp_path / "m")
    with pytest.raises(RuntimeError, match=r"photos\.onnx: .*Gather"):
        session({"photos": np.zeros((1, 4, 5, 3), np.uint8)})
