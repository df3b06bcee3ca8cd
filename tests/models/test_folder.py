from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from objemb.card import read_card
from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.models import Model, build_model, fit_whitening, load_model, save_model
from objemb.models.folder import fingerprint
from tests.models.conftest import SETTINGS


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_describes_as_before(model: Model, folder: Path, photos: Path) -> None:
    opened = load_model(folder)
    boxes = [(1, 2, 30, 40), (0, 0, 80, 60)]
    assert torch.equal(
        torch.as_tensor(opened.describe(photos / "0.png", boxes).vectors),
        torch.as_tensor(model.describe(photos / "0.png", boxes).vectors),
    )
    assert opened.fingerprint == model.fingerprint
    assert opened.dim == model.dim
    assert opened.settings == model.settings


def test_what_is_in_the_folder(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "weights.safetensors"]
    card = read_card(folder)
    assert card["settings"]["describer"]["extractor"]["size"] == 64
    assert card["settings"]["describer"]["regions"]["max_regions"] == 20, "defaults are filled in"
    assert card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert set(card["provenance"]) == {"created", "command", "weights", "versions"}
    assert card["whitening"] is None
    assert list(folder.parent.iterdir()) == [folder], "no temporary folder is left"


def test_building_twice_gives_the_same_model(model: Model) -> None:
    assert build_model(SETTINGS).fingerprint == model.fingerprint


def test_weights_from_a_file_are_provenance(model: Model, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(5)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / "w.pth")
    settings = json.loads(json.dumps(SETTINGS))
    settings["describer"]["backbone"]["weights"] = str(tmp_path / "w.pth")
    built = build_model(settings, command=["objemb", "model", "build"])
    assert built.settings["describer"]["backbone"]["weights"] is None
    origin = built.provenance["weights"]["describer.backbone.weights"]
    assert origin["name"] == str(tmp_path / "w.pth")
    assert len(origin["sha256"]) == 64
    save_model(built, tmp_path / "model")
    (tmp_path / "w.pth").unlink()
    assert load_model(tmp_path / "model").fingerprint == built.fingerprint != model.fingerprint


def test_the_fingerprint_depends_on_settings_and_every_tensor() -> None:
    tensors = {"weights": {"a": torch.zeros(2, 3), "b": torch.ones(1)}, "whitening": {}}
    base = fingerprint({"x": 1, "y": 2}, tensors)
    assert fingerprint({"y": 2, "x": 1}, tensors) == base
    assert fingerprint({"x": 1, "y": 3}, tensors) != base
    others = [
        {"weights": {"a": torch.zeros(3, 2), "b": torch.ones(1)}, "whitening": {}},
        {"weights": {"a": torch.zeros(2, 3).double(), "b": torch.ones(1)}, "whitening": {}},
        {"weights": {"a": torch.zeros(2, 3), "c": torch.ones(1)}, "whitening": {}},
        {"weights": {"a": torch.zeros(2, 3), "b": torch.ones(1) + 1e-7}, "whitening": {}},
        {"weights": {"a": torch.zeros(2, 3)}, "whitening": {"b": torch.ones(1)}},
    ]
    assert len({base, *(fingerprint({"x": 1, "y": 2}, t) for t in others)}) == 6


def test_a_folder_that_is_no_model_is_never_touched(model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    (tmp_path / "file").write_text("text")
    for target in ("mine", "file"):
        with pytest.raises(FileExistsError, match="found other files; nothing was changed"):
            save_model(model, tmp_path / target, force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_a_model_is_replaced_only_with_force(model: Model, rmac: Model, folder: Path) -> None:
    with pytest.raises(FileExistsError, match="--force"):
        save_model(rmac, folder)
    assert read_card(folder)["fingerprint"] == model.fingerprint
    save_model(rmac, folder, force=True)
    assert load_model(folder).fingerprint == rmac.fingerprint
    assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_is_filled(model: Model, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    save_model(model, tmp_path / "new")
    assert load_model(tmp_path / "new").dim == model.dim


def test_boxes_of_a_file_stay_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text('{"images": [], "annotations": [], "categories": []}')
    detector = {"name": "stored_boxes", "file": str(tmp_path / "boxes.json")}
    describer = {**SETTINGS["describer"], "regions": {"name": "detections", "detector": detector}}
    with pytest.raises(ValueError, match=r"expected a detector that is a network or none, found stored_boxes.*--boxes"):
        save_model(build_model({**SETTINGS, "describer": describer}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError("disk full"), "disk full"), (SafetensorError(FULL), "No space")]
)
def test_a_failed_save_leaves_what_was_there(
    model: Model, rmac: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    save_model(rmac, tmp_path / "old")
    monkeypatch.setattr("objemb.models.folder.save_file", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(ObjembError, match=f"new: the model could not be written: {reason}.*no files are left of it"):
        save_model(model, tmp_path / "new")
    with pytest.raises(ObjembError, match=f"old: the model could not be written: {reason}.*existing model is intact"):
        save_model(model, tmp_path / "old", force=True)
    assert load_model(tmp_path / "old").fingerprint == rmac.fingerprint
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_another_user_may_read_a_model(rmac: Model, photos: Path, tmp_path: Path, umask_022: None) -> None:
    save_model(fit_whitening(rmac, [photos], dim=3), tmp_path / "m")
    rights = {p.name: p.stat().st_mode & 0o777 for p in [tmp_path / "m", *(tmp_path / "m").iterdir()]}
    assert rights == {"m": 0o755, "model.json": 0o644, "weights.safetensors": 0o644, "whitening.safetensors": 0o644}


def test_an_interrupted_replacement_is_reported(folder: Path) -> None:
    folder.rename(folder.with_name(".0123456789ab.model"))
    with pytest.raises(
        FileNotFoundError, match=r"its replacement was interrupted, which left '.*\.0123456789ab\.model'"
    ):
        load_model(folder)


def test_no_model_is_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="objemb model build"):
            load_model(path)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("position", [0, 9, 500, -1])
def test_every_flipped_byte_is_noticed(folder: Path, name: str, position: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[position] ^= 0x20
    (folder / name).write_bytes(bytes(data))
    if name == "model.json" and position == -1:
        pytest.skip("white space behind the card says nothing")
    with pytest.raises(ArtefactMismatchError):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 100])
def test_truncation_is_noticed(folder: Path, name: str, length: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:length])
    with pytest.raises(ArtefactMismatchError, match="expected"):
        load_model(folder)


def test_a_missing_weights_file_is_named(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ArtefactMismatchError, match=r"weights.safetensors: expected sha256 \w+, found no file"):
        load_model(folder)


def edit(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))


def test_changed_settings_are_refused_with_both_fingerprints(model: Model, folder: Path) -> None:
    settings = json.loads(json.dumps(model.settings))
    settings["describer"]["extractor"]["size"] = 96
    edit(folder, settings=settings)
    with pytest.raises(ArtefactMismatchError, match=f"expected fingerprint {model.fingerprint}, found "):
        load_model(folder)


def test_weights_of_another_network_are_refused_by_name(model: Model, folder: Path) -> None:
    from objemb.disk import file_sha256

    file = folder / "weights.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**{k: v for k, v in tensors.items() if k != name}, "surplus": torch.zeros(1)}, file)
    edit(folder, files={file.name: {"sha256": file_sha256(file)}})
    with pytest.raises(ArtefactMismatchError, match="surplus") as caught:
        load_model(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", '{"format": "objemb-model", "format_version": 2}', '{"format": "other"}', "[" * 9999]
)
def test_a_wrong_card_is_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(ArtefactMismatchError):
        load_model(folder)


def test_a_whitening_is_saved_with_what_it_was_fitted_on(rmac: Model, photos: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    whitened = fit_whitening(rmac, [photos], dim=3, on_photo=lambda: seen.append(1))
    assert len(seen) == 5
    assert rmac.dim == 24, "the model stays as it is"
    assert whitened.dim == 3
    save_model(whitened, tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "weights.safetensors",
        "whitening.safetensors",
    ]
    card = read_card(tmp_path / "model")
    assert card["whitening"]["dim"] == 3
    assert "5 photos" in card["whitening"]["fitted_on"]
    assert str(photos) in card["whitening"]["fitted_on"]
    opened = load_model(tmp_path / "model")
    assert opened.fingerprint == whitened.fingerprint != rmac.fingerprint
    assert torch.equal(
        torch.as_tensor(opened.describe(photos / "1.png").vectors),
        torch.as_tensor(whitened.describe(photos / "1.png").vectors),
    )


def test_whitening_twice_is_refused(rmac: Model, photos: Path) -> None:
    whitened = fit_whitening(rmac, [photos], dim=3)
    with pytest.raises(ValueError, match="expected a model without one"):
        fit_whitening(whitened, [photos])


def test_whitening_needs_photos(rmac: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none"):
        fit_whitening(rmac, [tmp_path])


def test_a_command_with_a_name_that_is_not_utf8_is_kept(model: Model, tmp_path: Path) -> None:
    command = ["objemb", "model", "build", "\udcff.yaml"]
    replace(model, provenance={**model.provenance, "command": command}).save(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "model.json").read_text(encoding="utf-8"))["provenance"]["command"] == command
