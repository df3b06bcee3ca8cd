from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.checks import ArtefactMismatchError
from objemb.export.run import MIN_TORCH, torch_version
from objemb.runtimes.exported import PHOTOS
from objemb.runtimes.torch import EXPRESSION, OPERATORS, Torch
from tests.runtimes.graphs import contents, write_exported

if torch_version() < MIN_TORCH:
    pytest.skip("objemb export needs a newer PyTorch", allow_module_level=True)

ATTACK = "(__import__('os').system('touch attacked'), 1)[1]"


class Attack:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, ("open('attacked', 'w')",)


def changed(content: bytes, member: str, change: Callable[[bytes], bytes]) -> bytes:
    """An archive in which a member is changed, or added."""
    file, there = io.BytesIO(), False
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as after:
        for name in before.namelist():
            same = name.partition("/")[2] == member
            there |= same
            after.writestr(name, change(before.read(name)) if same else before.read(name))
        if not there:
            after.writestr(f"{before.namelist()[0].partition('/')[0]}/{member}", change(b""))
    return file.getvalue()


def in_json(key: str, value: object) -> Callable[[bytes], bytes]:
    """Replace the first value of a key, at any depth."""

    def replace(item: Any) -> bool:
        if isinstance(item, dict) and key in item:
            item[key] = value
            return True
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        return any(replace(one) for one in inner)

    def change(content: bytes) -> bytes:
        document = json.loads(content)
        assert replace(document)
        return json.dumps(document).encode()

    return change


@pytest.mark.parametrize(
    ("member", "change", "reason"),
    [
        ("data/weights/model_weights_config.json", in_json("use_pickle", True), "found use_pickle 'True'"),
        ("data/weights/model.pt", lambda _: pickle.dumps(Attack(), 2), "found 'archive/data/weights/model.pt'"),
        ("data/sample_inputs/model.pt", lambda _: pickle.dumps(Attack(), 2), "found UnpicklingError"),
        ("data/aotinductor/model/run.so", lambda _: b"code", "found 'archive/data/aotinductor/model/run.so'"),
        ("models/model.json", in_json("target", "torch.load"), "found target 'torch.load'"),
        ("models/model.json", in_json("target", "torch.ops.aten.from_file.default"), "found target"),
        ("models/model.json", in_json("expr_str", ATTACK), "found expr_str"),
    ],
)
def test_what_would_run_code_is_refused(
    member: str, change: Callable[[bytes], bytes], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = changed(contents(PHOTOS, "pt2")[0], member, change)
    exported, card = write_exported(tmp_path / "m", "pt2", {"photos.pt2": content})
    with pytest.raises(ArtefactMismatchError, match=reason):
        Torch().open(PHOTOS, exported, card, tmp_path / "m")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("text", [ATTACK, "().__class__", "Symbol('x__')", "Integer('1;2')", "open", "1 if 2 else 3"])
def test_no_expression(text: str) -> None:
    assert not EXPRESSION.fullmatch(text)


def test_long_expressions_are_refused_at_once() -> None:
    assert not EXPRESSION.fullmatch("1" * 100_000 + "!")
    assert not EXPRESSION.fullmatch("Add(" * 10_000 + "!")


def test_expressions_and_operators_of_programs() -> None:
    assert EXPRESSION.fullmatch("Mul(Integer(4), Max(Integer(1), Add(Symbol('s62', positive=True), Integer(-2))))")
    assert EXPRESSION.fullmatch("FloorDiv(Symbol('u0', integer=True), Integer(2))")
    assert all(OPERATORS.fullmatch(n) for n in ("torch.ops.torchvision.nms.default", "_operator.add", "torch.sym_max"))


def test_the_number_of_threads_is_that_of_the_process_again(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    exported, card = write_exported(tmp_path / "m", "pt2")
    Torch(threads=before + 1).open(PHOTOS, exported, card, tmp_path / "m")({"photos": np.zeros((1, 4, 5, 3), np.uint8)})
    assert torch.get_num_threads() == before
