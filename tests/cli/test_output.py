from __future__ import annotations

import io
import json
import sys

import pytest

from objemb.cli.output import note, print_json
from objemb.text import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.jpg", "plain.jpg"),
        ("\x1b[2J\x7f\x9b", r"\x1b[2J\x7f\x9b"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),  # would read aexe.jpg
        ("\u2066x\u2069\u200e\u200b\ufeff", r"\u2066x\u2069\u200e\u200b\ufeff"),
        ("a\nb\u2028c\u2029", r"a\x0ab\u2028c\u2029"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("\U000e0041", r"\U000e0041"),
        (
            "سیب می\u200cخورم 写真\u3000é \U0001f469\u200d\U0001f373",
            "سیب می\u200cخورم 写真\u3000é \U0001f469\u200d\U0001f373",
        ),
    ],
)
def test_unseen_characters_are_shown(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(text) == shown
    note(text)
    assert capsys.readouterr().err == shown + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1251"])
def test_json_is_whole_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    document = {"image": "Å写真", "label": "half \ud800", "n": [1, None]}
    print_json(document)
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == document  # type: ignore[attr-defined]


def test_json_that_utf8_holds_is_not_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"image": "写真"})
    assert capsys.readouterr().out == '{"image": "写真"}\n'


def test_a_document_that_is_no_json_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        print_json({"first": "a" * 10**6, "then": float("nan")})
    assert capsys.readouterr().out == ""
