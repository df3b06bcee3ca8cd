"""The file in which `objemb doctor --tune` records how models run, and what opening a model makes of it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

import objemb
from objemb.card import read_card
from objemb.models.tuned import CHOICES, Choice, processor, read_choice, tuned_file, write_choice
from tests.runtimes.models import write_model

CHOICE = Choice(runtime="openvino", precision="bf16", speed=1.7, cosine=0.9995, boxes=1.0)
CARD = {"fingerprint": "f" * 64, "export": {"format": "onnx", "precision": "fp32"}}
OF_PYTORCH = {"fingerprint": "f" * 64}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBJEMB_TUNED", str(tmp_path / "folder" / "tuned.json"))
    return tmp_path / "folder" / "tuned.json"


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJEMB_TUNED", str(tmp_path / "mine.json"))
    assert tuned_file() == tmp_path / "mine.json"
    monkeypatch.setenv("OBJEMB_TUNED", "")
    assert tuned_file() is None
    assert read_choice(CARD) is None
    with pytest.raises(ValueError, match="OBJEMB_TUNED: expected the name of a file to write, found an empty one"):
        write_choice(CARD, CHOICE)
    monkeypatch.delenv("OBJEMB_TUNED")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert tuned_file() == tmp_path / "objemb" / "tuned.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tuned_file() == tmp_path / "home" / ".config" / "objemb" / "tuned.json"


def test_a_choice_holds_for_its_model_and_processor(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_choice(CARD) is None
    assert write_choice(CARD, CHOICE) == file
    other = Choice(None, "bf16", 1.2, 0.999, 0.98)
    write_choice(OF_PYTORCH, other)
    assert (read_choice(CARD), read_choice(OF_PYTORCH)) == (CHOICE, other)
    assert read_choice({**CARD, "fingerprint": "e" * 64}) is None
    assert read_choice({**CARD, "export": {"format": "onnx", "precision": "fp16"}}) is None
    write_choice(CARD, other)
    assert read_choice(CARD) == other
    assert list(json.loads(file.read_text())[CHOICES]) == [processor()]
    monkeypatch.setattr("objemb.models.tuned.processor", lambda: "another, 64 cores")
    assert read_choice(CARD) is None
    write_choice(CARD, CHOICE)
    monkeypatch.undo()
    monkeypatch.setenv("OBJEMB_TUNED", str(file))
    assert read_choice(CARD) == other, "that of another processor is beside it"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"choices": 3}',
        json.dumps({CHOICES: {processor(): 7}}),
        json.dumps({CHOICES: {processor(): {f"{CARD['fingerprint']} onnx fp32": {"runtime": "openvino"}}}}),
        json.dumps({CHOICES: {processor(): {f"{CARD['fingerprint']} onnx fp32": 4}}}),
    ],
)
def test_a_damaged_file_is_named_and_written_anew(content: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir()
    file.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_choice(CARD) is None
    assert f"{file} is not used" in caplog.text
    write_choice(CARD, CHOICE)
    assert read_choice(CARD) == CHOICE


def test_opening_takes_the_choice_where_nothing_else_is_asked_for(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    folder = write_model(tmp_path / "model", detector=False)
    # in fp32: OpenVINO offers bf16 on processors where oneDNN is told not to use it (ONEDNN_MAX_CPU_ISA=AVX2)
    write_choice(read_card(folder), replace(CHOICE, precision="fp32"))

    def opened(**options: str) -> tuple[str, str]:
        model = objemb.load(folder, **options)  # type: ignore[arg-type]
        return model.runtime.registry_name, model.precision  # type: ignore[attr-defined]

    assert opened(precision="auto") == ("openvino", "fp32")
    assert opened() == ("onnxruntime", "fp32"), "a program decides for itself"
    assert opened(precision="fp32") == ("onnxruntime", "fp32")
    assert opened(precision="auto", runtime="onnxruntime") == ("onnxruntime", "fp32")
    write_choice(read_card(folder), Choice("of_another_machine", "bf16", 2.0, 1.0, 1.0))
    assert opened(precision="auto") == ("onnxruntime", "fp32")
    file.unlink()
    assert opened(precision="auto") == ("onnxruntime", "fp32")
