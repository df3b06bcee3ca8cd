from __future__ import annotations

import sys
from pathlib import Path

import pytest

from objemb.training.logger import RunLogger


def test_a_run_that_goes_on_forgets_what_came_after(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, 0)
    for step in (1, 2, 3):
        logger.write(step, "train", {"loss": 1 / step})
    logger.close()
    with logger.file.open("a", encoding="utf-8") as stream:
        stream.write('{"step": 1, "kind"')
    RunLogger(tmp_path, 2).close()
    assert logger.file.read_text(encoding="utf-8") == (
        '{"step": 1, "kind": "train", "loss": 1.0}\n{"step": 2, "kind": "train", "loss": 0.5}\n'
    )


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"training needs tensorboard: pip install 'objemb\[train\]'"):
        RunLogger(tmp_path, 0)


def test_lines_that_are_damaged_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 1, "kind": "train"}\n\xff\xfe\n[]\n{"step": 2, "kind": "validation"}\n'
    )
    RunLogger(tmp_path, 2).close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "kind": "train"}\n{"step": 2, "kind": "validation"}\n'
    RunLogger(tmp_path, 2, validated=False).close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "kind": "train"}\n'
