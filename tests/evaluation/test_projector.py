from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from objemb.evaluation.projector import MAX_VECTORS, THUMBNAIL, Embedding, box_text, evenly, sprite, write_embeddings

RED = Image.new("RGB", (20, 10), (250, 0, 0))


def embedding(name: str = "mac, p=2", **changes: object) -> Embedding:
    labels = {"instance": ["cup", "tea\tpot\n"], "file": ["a.jpg", ""]}
    values = {
        "vectors": np.array([[1, 0.25, 0], [0, -1, 1e-7]], np.float32),
        "labels": labels,
        "thumbnails": [RED, None],
    }
    return Embedding(name, **{**values, **changes})  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    config = write_embeddings(tmp_path / "new", [embedding(), embedding("../é", labels={"file": ["a", "b"]})])
    assert config == tmp_path / "new" / "projector_config.pbtxt"
    folder = tmp_path / "new" / "mac__p=2"
    assert (folder / "vectors.tsv").read_text() == "1\t0.25\t0\n0\t-1\t1e-07\n"
    assert (folder / "labels.tsv").read_text() == "instance\tfile\ncup\ta.jpg\ntea pot\t-\n"
    assert Image.open(folder / "thumbnails.png").size == (2 * THUMBNAIL, 2 * THUMBNAIL)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"mac__p=2", "__", "projector_config.pbtxt"}
    assert (tmp_path / "new" / "__" / "labels.tsv").read_text() == "a\nb\n"


def test_tensorboard_reads_them(tmp_path: Path) -> None:
    plugin_module = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    write_embeddings(tmp_path, [embedding()])
    provider = SimpleNamespace(list_runs=lambda ctx, experiment_id: [])
    plugin = plugin_module.ProjectorPlugin(SimpleNamespace(data_provider=provider, logdir=str(tmp_path)))
    plugin._determine_is_active()
    assert plugin.is_active()
    ((run, config),) = plugin._configs.items()
    (found,) = config.embeddings
    assert (run, found.tensor_name, list(found.tensor_shape)) == (".", "mac__p=2", [2, 3])
    assert plugin.tensor_cache.get((run, found.tensor_name)).tolist() == embedding().vectors.tolist()
    for path in (found.metadata_path, found.sprite.image_path):
        assert Path(plugin_module._rel_to_abs_asset_path(path, plugin.config_fpaths[run])).is_file()
    assert list(found.sprite.single_image_dim) == [THUMBNAIL, THUMBNAIL]


def test_thumbnails_keep_their_proportions() -> None:
    picture = sprite([RED, None, Image.new("L", (500, 1000))])
    assert picture.size == (2 * THUMBNAIL, 2 * THUMBNAIL)
    assert picture.getpixel((THUMBNAIL // 2, THUMBNAIL // 2)) == (250, 0, 0)
    assert picture.getpixel((THUMBNAIL // 2, 2)) == (255, 255, 255)
    assert picture.getpixel((THUMBNAIL + 5, 5)) == (150, 150, 150)
    assert picture.getpixel((THUMBNAIL // 2, 2 * THUMBNAIL - 2)) == (0, 0, 0)
    assert RED.size == (20, 10)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file: expected 2, one a vector, found 1"):
        embedding(labels={"file": ["a"]})
    with pytest.raises(ValueError, match="thumbnails: expected 2"):
        embedding(thumbnails=[])
    with pytest.raises(ValueError, match="number"):
        embedding(vectors=np.zeros((0, 3), np.float32), labels={}, thumbnails=[])
    with pytest.raises(ValueError, match="different names"):
        write_embeddings(tmp_path, [embedding("a b"), embedding("a_b")])


def test_even_steps() -> None:
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(101, 3).tolist() == [0, 50, 100]
    assert evenly(0, 3).tolist() == []
    assert MAX_VECTORS == 128 * 128


def test_box_text() -> None:
    assert box_text([0.4, 10, 20.6, 30]) == "0 10 21 30"
