"""Every runtime keeps to the contract of its kind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb import registry
from objemb.checks import ArtefactMismatchError
from objemb.runtimes.base import Runtime
from objemb.runtimes.exported import BOXES, FORMATS, PHOTOS, TensorSpec
from tests.contracts.made import every, module_of_tests
from tests.runtimes.graphs import contents, expected, write_exported

PHOTO = np.random.default_rng(1).integers(0, 256, (11, 13, 3), dtype=np.uint8)
INPUTS: dict[str, dict[str, Any]] = {
    PHOTOS: {"photos": PHOTO[None]},
    BOXES: {"photo": PHOTO, "boxes": np.array([[1, 2, 3, 4], [0, 0, 13, 11.5], [5, 5, 5, 5]], np.float32)},
}


def runtime(name: str, **settings: object) -> Runtime:
    module_of_tests("runtimes", name)  # skips where the library of the runtime is not installed
    return registry.build(Runtime, {"name": name, **settings})


def first_format(name: str) -> str:
    return registry.load(Runtime, name).formats[0]


@every("runtimes")
def test_what_it_says_of_itself(name: str) -> None:
    cls = registry.load(Runtime, name)
    assert cls.formats
    assert set(cls.formats) <= set(FORMATS)
    assert cls.precisions[0] == "fp32"


@every("runtimes")
@pytest.mark.parametrize("graph", [PHOTOS, BOXES])
def test_arrays_in_and_arrays_out(name: str, graph: str, tmp_path: Path) -> None:
    for number, format in enumerate(registry.load(Runtime, name).formats):
        exported, card = write_exported(tmp_path / str(number), format)
        session = runtime(name, threads=1).open(graph, exported, card, tmp_path / str(number))
        for arrays in (INPUTS[graph], {key: value[..., ::-1, :] for key, value in INPUTS[graph].items()}):
            given = {key: value.copy() for key, value in arrays.items()}
            found, right = session(arrays), expected(arrays)
            assert found.keys() == right.keys()
            for key, value in found.items():
                assert isinstance(value, np.ndarray)
                np.testing.assert_allclose(value, right[key], rtol=1e-5, atol=1e-4)
            assert all((arrays[key] == given[key]).all() for key in arrays), "what it is given stays as it is"


@every("runtimes")
def test_answers_stay_when_the_next_photo_comes(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    session = runtime(name).open(PHOTOS, exported, card, tmp_path / "m")
    first = session({"photos": PHOTO[None]})
    kept = {key: value.copy() for key, value in first.items()}
    session({"photos": np.zeros((1, 5, 6, 3), np.uint8)})
    assert all((first[key] == kept[key]).all() for key in kept)


@every("runtimes")
def test_several_threads(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    session = runtime(name, threads=1).open(PHOTOS, exported, card, tmp_path / "m")
    photos = [np.random.default_rng(n).integers(0, 256, (1, 5 + n % 3, 6, 3), dtype=np.uint8) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for photo, found in zip(photos, pool.map(lambda photo: session({"photos": photo}), photos), strict=True):
            np.testing.assert_allclose(found["whole"], expected({"photos": photo})["whole"], rtol=1e-4, atol=1e-3)


@every("runtimes")
def test_read_only_photos(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    session = runtime(name).open(PHOTOS, exported, card, tmp_path / "m")
    photo = PHOTO[None].copy()
    photo.flags.writeable = False
    np.testing.assert_allclose(session({"photos": photo})["whole"], expected({"photos": photo})["whole"], rtol=1e-5)


@every("runtimes")
def test_other_inputs_than_the_card_says(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    session = runtime(name).open(BOXES, exported, card, tmp_path / "m")
    good = INPUTS[BOXES]
    with pytest.raises(ValueError, match=r"expected the inputs 'photo', 'boxes', found 'photo'"):
        session({"photo": PHOTO})
    with pytest.raises(ValueError, match=r"expected photo uint8 \(any, any, 3\), found float32 \(11, 13, 3\)"):
        session({**good, "photo": PHOTO.astype(np.float32)})
    with pytest.raises(ValueError, match=r"expected boxes float32 \(any, 4\), found float32 \(3, 3\)"):
        session({**good, "boxes": good["boxes"][:, :3]})


@every("runtimes")
def test_a_truncated_graph_is_refused_before_it_is_opened(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    for file in exported.graphs[PHOTOS].files:
        content = (tmp_path / "m" / file).read_bytes()
        (tmp_path / "m" / file).write_bytes(content[:-1])
        with pytest.raises(ArtefactMismatchError, match=rf"{file}: expected sha256 \w{{64}}, found \w{{64}}"):
            runtime(name).open(PHOTOS, exported, card, tmp_path / "m")
        (tmp_path / "m" / file).write_bytes(content)


@every("runtimes")
def test_the_graph_of_another_model(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    others = [(tmp_path / "m" / file).read_bytes() for file in exported.graphs[BOXES].files]
    for file, content in zip(exported.graphs[PHOTOS].files, others, strict=True):
        (tmp_path / "m" / file).write_bytes(content)
    with pytest.raises(ArtefactMismatchError, match="expected sha256"):
        runtime(name).open(PHOTOS, exported, card, tmp_path / "m")


@every("runtimes")
def test_checksums_of_a_stranger_do_not_make_a_graph_of_it(name: str, tmp_path: Path) -> None:
    """The card was made for these files, which are no graph, or one with other inputs and outputs."""
    first = first_format(name)
    exported, _ = write_exported(tmp_path / "m", first)
    file = exported.graphs[PHOTOS].files[0]
    for content in (b"", b"no graph at all" * 9, contents(PHOTOS, first)[0][:200]):
        _, card = write_exported(tmp_path / "m", first, {file: content})
        with pytest.raises(ArtefactMismatchError, match=f"expected a graph that {name} reads, found"):
            runtime(name).open(PHOTOS, exported, card, tmp_path / "m")
    other = dict(zip(exported.graphs[PHOTOS].files, contents(BOXES, first), strict=True))
    _, card = write_exported(tmp_path / "m", first, other)
    with pytest.raises(ArtefactMismatchError, match=r"expected .*inputs.* as .*card|as model\.json says, found"):
        runtime(name).open(PHOTOS, exported, card, tmp_path / "m")


@every("runtimes")
def test_outputs_that_the_card_does_not_promise(name: str, tmp_path: Path) -> None:
    exported, card = write_exported(tmp_path / "m", first_format(name))
    graph = exported.graphs[PHOTOS]
    longer = replace(graph, outputs=(TensorSpec("whole", "float32", (1, 99)), graph.outputs[1]))
    session = runtime(name).open(PHOTOS, replace(exported, graphs={PHOTOS: longer}), card, tmp_path / "m")
    with pytest.raises(ArtefactMismatchError, match=r"expected whole float32 \(1, 99\) as the card says, found float"):
        session(INPUTS[PHOTOS])


@every("runtimes")
def test_settings_that_it_does_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=f"precision of {name}: expected one of 'fp32'"):
        runtime(name, precision="int4")
    with pytest.raises(ValueError, match="threads: expected an integer of 1 or more, found 0"):
        runtime(name, threads=0)


@every("runtimes")
def test_a_format_that_it_does_not_read(name: str, tmp_path: Path) -> None:
    opened = runtime(name)
    (format, *_) = [f for f in FORMATS if f not in opened.formats]
    exported, card = write_exported(tmp_path / "m", first_format(name))
    with pytest.raises(ValueError, match=f"expected one that reads '{format}', found '{name}', which reads"):
        opened.open(PHOTOS, replace(exported, format=format), card, tmp_path / "m")
