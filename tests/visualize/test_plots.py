from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from objemb.visualize import plots


def test_all_kinds_on_one_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        figure, axes = plots.new_figure(2, 2)
        plots.bars(axes[0, 0], "bars", {"one": [1.0, 2.0], "two": [0.5, -1.0]}, ["left", "right"], top=2.0)
        curves = {"SPoC": {"first": [(64.0, 1.0), (128.0, 2.0)], "second": []}, "MAC": {"": [(64.0, 3.0)]}}
        plots.lines(axes[0, 1], "lines", curves, x_label="dimension", doubling=True)
        plots.histogram(axes[1, 0], "histogram", [1, 0, 3], -1, 1, y_label="boxes")
        plots.remark(axes[1, 1], "nothing", "not measured")
        assert [text.get_text() for text in axes[0, 1].get_legend().get_texts()] == ["SPoC, first", "MAC"]
        assert [tick.get_text() for tick in axes[0, 1].get_xticklabels()] == ["64", "128"]
        plots.save(figure, tmp_path / "new" / name)
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    # the canvas of older matplotlib loses a pixel to the rounding of inches
    assert Image.open(tmp_path / "new" / "a.png").size == pytest.approx((920, 740), abs=1)


def test_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure, axes = plots.new_figure(1, 2)
    plots.bars(axes[0, 0], "bars", {}, [])
    plots.lines(axes[0, 1], "lines", {}, doubling=True)
    plots.save(figure, tmp_path / "empty.png")
    with pytest.raises(ValueError, match="bars 'a': expected 2 values, one per label, found 1"):
        plots.bars(axes[0, 0], "bars", {"a": [1.0]}, ["x", "y"])


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[train\]'"):
        plots.new_figure()
