"""The commands of README.md, docs/training.md and docs/detect_to_retrieve.md, word for word, with what they need there.

The pages are read when the tests run; a shell splits the lines and fills in their variables, and each command then runs
in this process with the words that the shell gave; so does the README's program. What makes them quick is not in the
words: photos and products are few and small, published weights are random ones that lie where torch hub keeps its
downloads, and two readers of settings are told to read smaller ones (``SHRUNK``).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import runpy
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from objemb import Index, registry
from objemb.cli.app import command_line
from objemb.cli.programs import prepare_data, train
from objemb.config import load_config, load_training_config
from objemb.datasets.compose import ComposeSettings
from objemb.datasets.scenes import SceneSettings
from objemb.describers.base import Describer
from objemb.layers.whitening import Whitening
from objemb.models import build_model, load_model
from objemb.ops.tensors import l2
from objemb.training.optimizer import parameters_below
from tests.datasets.pictures import noise, write_ingredients

ROOT = Path(__file__).parents[1]
#: Commands that are not run, by how they begin, and why.
NOT_RUN = {
    "make demo": "the demo takes ten minutes; tests/tools/test_demo.py runs it with --small",
    "make install": "makes an environment from package indexes; every other command here runs in one",
    "objemb train CONFIG": "the form of a command, with a name to be filled in",
    "objemb index photos/ -o my_index --model RUN/model": "likewise",
}
#: Settings of a training that make it small, by config: one step on small scenes.
SHRUNK = {
    "detect_products": [
        *("run.steps=1", "run.batch=2", "run.workers=0", "data.count=2", "validation.count=1"),
        *("data.settings.size=128", "validation.settings.size=128"),
        *("describer.regions.detector.min_size=128", "describer.regions.detector.max_size=128"),
    ],
    "distill_products": [
        *("run.steps=1", "run.batch=2", "run.workers=0", "data.count=2", "validation.count=1"),
        *("data.settings.size=128", "validation.settings.size=128"),
        *("describer.detector.min_size=128", "describer.detector.max_size=128"),
    ],
}
#: The same for scenes that are written, by what reads the settings. Compositions: as many boxes as a whitening to 256
#: dimensions needs. Generated scenes: as many features as there are words, and the scene that is searched for.
FEW: dict[type, dict[str, Any]] = {
    ComposeSettings: {
        **{"count": 80, "val_count": 1, "size": 128},
        **{"objects_per_scene": (6, 6), "distractors_per_scene": (0, 0)},
    },
    SceneSettings: {"val_scenes": 10, "test_scenes": 14},
}


def commands(page: str) -> list[list[str]]:
    """The words of all commands in the console blocks of a page, in order, as a shell hands them on."""
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)]
    programs = ("objemb", "python")
    script = "".join(f"{name}() {{ printf '%s\\0' {name} \"$@\"; printf '\\n\\0'; }}\n" for name in programs)
    found = []
    for line in filter(None, map(str.strip, lines)):
        reason = next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), None)
        if reason is None:
            script += f"{line}\n"
    shell = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, check=True)
    words: list[str] = []
    for word in shell.stdout.split("\0")[:-1]:
        if word == "\n":
            found.append(words)
            words = []
        else:
            words.append(word)
    assert not words
    return found


def run(words: Sequence[str]) -> str:
    program, *arguments = words
    if program == "python":
        runpy.run_path(str(ROOT / arguments[0]))["main"](arguments[1:])
        return ""
    result = CliRunner().invoke(command_line(arguments), arguments, catch_exceptions=False)
    assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}"
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands run in: what the pages call one's own, and downloads that were made before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    products, photos = write_ingredients(tmp_path, products=8, views=2, photos=3)
    with (tmp_path / "products.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "instance"])
        rows.writerows([file.relative_to(tmp_path), file.parent.name] for file in sorted(products.glob("*/*.png")))
    (tmp_path / "my_photos").mkdir()
    for number in range(2):
        noise((120, 90), number).save(tmp_path / "my_photos" / f"{number}.jpg")
    noise((400, 400), 7).save(tmp_path / "photo.jpg")
    assert photos.is_dir()
    monkeypatch.setattr(train, "load_training_config", _smaller)
    monkeypatch.setattr(prepare_data, "read_settings", _fewer)
    torch.manual_seed(0)
    return tmp_path


def _smaller(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    return load_training_config(config, [*overrides, *SHRUNK[config]])


def _fewer(settings: type, options: Any, read: Any = prepare_data.read_settings) -> Any:
    return dataclasses.replace(read(settings, options), **FEW[settings])


def put_weights(network: torch.nn.Module, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), place)


def test_the_readme(folder: Path) -> None:
    published = torchvision.models.detection
    detector = published.FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1
    network = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    made = published.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
    put_weights(made, downloads / Path(detector.url).name)
    put_weights(torchvision.models.resnet50(weights=None), downloads / Path(network.url).name)
    found = commands("README.md")
    assert [words[1] for words in found] == ["doctor", "model", "index", "search"]
    for words in found:
        run(words)
    assert len(Index.open(folder / "my_index")) == 3
    assert "photo.jpg" in (folder / "hits.html").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(programs) == 2
    exec(compile("".join(programs), "README.md", "exec"), {})
    assert len(Index.open(folder / "other_index")) == 3


def test_visual_words(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    found = commands("docs/detect_to_retrieve.md")
    assert [words[1] for words in found] == ["prepare-data", "model", "index", "search", "tools/draw_words.py"]
    for words in found:
        run(words)
    index = Index.open(folder / "word_index")
    assert (index.schema.name, len(index)) == ("visual_words", 14)
    page = (folder / "hits.html").read_text(encoding="utf-8")
    assert "test_000010.jpg" in page
    assert "local features that agree" in page
    with Image.open(folder / "figure.jpg") as figure:
        assert figure.format == "JPEG"
        assert np.asarray(figure).std() > 20


def test_a_student_of_ones_own_products(folder: Path) -> None:
    put_weights(torchvision.models.mobilenet_v2(weights=None), folder / "mobilenet_v2.pth")
    found = commands("docs/training.md")
    assert [words[1] for words in found] == ["prepare-data", "model", "train", "train", "index"]
    for words in found:
        run(words)
    student = load_model(folder / "runs" / "student" / "model")
    assert student.dim == load_model(folder / "runs" / "teacher").dim == 256
    card = json.loads((folder / "runs" / "student" / "model" / "report.json").read_text(encoding="utf-8"))
    assert card["detector"]["same"]
    assert len(Index.open(folder / "my_index")) == 2


def test_settings_for_another_network(folder: Path) -> None:
    """The block has settings for the same commands, whose run would take as long again: what they make must fit."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    save_file(timm.create_model("tf_efficientnet_lite2").state_dict(), folder / "tf_efficientnet_lite2.safetensors")
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    (variable, *lines) = re.findall(r"^```text\n(N=.*?)^```", page, re.MULTILINE | re.DOTALL)[0].splitlines()
    overrides = {}
    for line in lines:
        script = f"{variable}\nprintf '%s\\0' {line}"
        shell = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, check=True)
        config, *overrides[config] = shell.stdout.split("\0")[:-1]
    teacher = build_model(load_config("hard_attention_crop", overrides.pop("hard_attention_crop"))).describer
    tasks = {config: load_training_config(config, given)["task"] for config, given in overrides.items()}
    tasks["distill_products"]["describer"]["detector"]["weights"] = None
    first = registry.build(Describer, tasks["detect_products"]["describer"]).regions.detector
    then = registry.build(Describer, tasks["distill_products"]["describer"])
    then.detector.load_state_dict(first.state_dict())
    then.head.initialise(teacher.backbone, Whitening.fit(l2(torch.rand(300, 352)), 256, fitted_on="noise"))
    kept = parameters_below(first, tasks["detect_products"]["frozen"])
    assert {name.rpartition("network.")[2][:8] for name in kept} == {
        "conv_ste",
        "bn1.weig",
        "bn1.bias",
        "blocks.0",
        "blocks.1",
        "blocks.2",
    }
    assert {name[:8] for name, _ in then.head.upper.named_parameters()} == {
        "blocks.3",
        "blocks.4",
        "blocks.5",
        "blocks.6",
    }


def test_what_is_not_run_is_there() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/training.md"))
    assert [start for start in NOT_RUN if f"$ {start}" not in text] == []
