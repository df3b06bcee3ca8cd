"""What ``hf_detector`` uses of transformers: networks, their preparation of photos, and tokens of prompts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from objemb import checks
from objemb.checks import MissingWeightsError
from objemb.weights.read import UnreadableWeightsError

#: Parts of the contents of a repository.
NETWORK, PHOTOS, TOKENS = "network", "photos", "tokens"
#: Model types that take one text of all prompts, and score its tokens; the others take a text for each prompt.
GROUNDED = ("grounding-dino", "mm-grounding-dino")
PER_PROMPT = ("owlvit", "owlv2")
#: Between the name of a repository of the hub and a branch, tag or commit.
REVISION = "@"


def contents(source: str | Path, prompts: Sequence[str] | None) -> dict[str, object]:
    """What defines a detector without its weights, ready for JSON.

    Args:
        source: A folder of ``save_pretrained``, or a repository of the Hugging Face Hub, with or without ``@REVISION``.
        prompts: Descriptions of objects for an open-vocabulary network; None for one with classes of its own.

    Returns:
        ``network`` and ``photos``, the configurations of the network and of the preparation of its input, and, with
        prompts, their ``tokens``.

    Raises:
        MissingWeightsError: It is not on this machine and cannot be downloaded.
        ValueError: It holds another kind of network, or prompts are missing or not wanted.
        ImportError: transformers is not installed.
    """
    transformers = _transformers()
    name, options = _place(source)
    with _errors(source):
        network = transformers.AutoConfig.from_pretrained(name, **options)
    open_vocabulary = expect_prompts(network.model_type, prompts)
    with _errors(source):
        photos = transformers.AutoImageProcessor.from_pretrained(name, **options)
        parts = {
            NETWORK: json.loads(network.to_json_string(use_diff=False)),
            PHOTOS: json.loads(photos.to_json_string()),
        }
    if open_vocabulary and prompts is not None:
        with _errors(source):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        tokens = _joined if network.model_type in GROUNDED else _one_by_one
        parts[TOKENS] = tokens(tokenizer, network, prompts)
    return parts


def expect_prompts(model_type: str, prompts: Sequence[str] | None) -> bool:
    """Whether a network is an open-vocabulary detector.

    Raises:
        ValueError: It is no detector, or prompts are given to one with classes of its own, or missing for another.
    """
    auto = _transformers().models.auto.modeling_auto
    plain = auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    if model_type in plain:
        if prompts is not None:
            raise ValueError(
                f"prompts: expected none, because a network of the type {model_type!r} has classes of its own, "
                f"found {list(prompts)}"
            )
        return False
    if model_type not in (*GROUNDED, *PER_PROMPT):
        raise ValueError(
            f"model type: expected a detector that transformers knows ({checks.listed(sorted(plain))}; with prompts "
            f"{checks.listed((*GROUNDED, *PER_PROMPT))}), found {model_type!r}"
        )
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise ValueError(
            f"prompts: expected descriptions of the objects for a network of the type {model_type!r}, such as "
            f"['a bottle', 'a box'], found {prompts!r}"
        )
    return True


def network(parts: Mapping[str, Any], weights: str | Path | None, prompts: Sequence[str] | None) -> Any:
    """The network of some :func:`contents`.

    Args:
        parts: The contents.
        weights: A folder or repository with its weights; None for random ones.
        prompts: As for :func:`contents`.

    Raises:
        MissingWeightsError: The weights are not on this machine and cannot be downloaded.
        UnreadableWeightsError: They do not fit the network.
        ValueError: The contents are not those of a detector, or prompts are missing or not wanted.
    """
    transformers = _transformers()
    with _as_files(parts, NETWORK, "config.json") as folder, _errors(NETWORK):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    zero_shot = expect_prompts(config.model_type, prompts)
    auto = transformers.AutoModelForZeroShotObjectDetection if zero_shot else transformers.AutoModelForObjectDetection
    if weights is None:
        return auto.from_config(config, trust_remote_code=False)
    name, options = _place(weights)
    with _errors(weights), _quiet(transformers):
        loaded, report = auto.from_pretrained(name, config=config, output_loading_info=True, **options)
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise UnreadableWeightsError(f"{weights}: expected weights of all layers, found none for {lacking[0]}")
    return loaded.float()


def photo_processor(parts: Mapping[str, Any]) -> Any:
    """The image processor of some :func:`contents`. Raises ``ValueError`` if they have none."""
    with _as_files(parts, PHOTOS, "preprocessor_config.json") as folder, _errors(PHOTOS):
        return _transformers().AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def _joined(tokenizer: Any, network: Any, prompts: Sequence[str]) -> dict[str, object]:
    """Tokens of one text of all prompts, each in lower case and with a full stop behind it, and the places of each."""
    texts = [prompt.strip().lower().rstrip(".").replace(".", " ") for prompt in prompts]
    encoded = tokenizer(" ".join(f"{text}." for text in texts), return_offsets_mapping=True)
    places, start = [], 0
    for text in texts:
        end = start + len(text)
        inside = [n for n, (a, b) in enumerate(encoded["offset_mapping"]) if a < b and start <= a and b <= end]
        places.append([inside[0], inside[-1] + 1])
        start = end + 2
    most = int(network.max_text_len)
    if places[-1][1] > most:
        raise ValueError(f"prompts: expected at most {most} tokens together, found {len(encoded['input_ids'])}")
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {**{name: [encoded[name]] for name in names if name in encoded}, "places": places}


def _one_by_one(tokenizer: Any, network: Any, prompts: Sequence[str]) -> dict[str, object]:
    """Tokens of each prompt, padded to the length that the network takes."""
    length = network.text_config.max_position_embeddings
    encoded = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True)
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _place(source: str | Path) -> tuple[str, dict[str, object]]:
    """A folder, or the name of a repository, and further arguments of ``from_pretrained``."""
    text = str(source)
    if Path(text).expanduser().is_dir():
        return str(Path(text).expanduser()), {"trust_remote_code": False, "local_files_only": True}
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise MissingWeightsError(
            f"weights: expected a folder of transformers or a repository ORG/NAME of the Hugging Face Hub, found {text}"
        )
    name, _, revision = text.partition(REVISION)
    return name, {"trust_remote_code": False, **({"revision": revision} if revision else {})}


@contextmanager
def _as_files(parts: Mapping[str, Any], part: str, name: str) -> Iterator[str]:
    """A folder with a part of the contents as the file that transformers reads."""
    content = parts.get(part) if isinstance(parts, Mapping) else None
    if not isinstance(content, Mapping):
        raise ValueError(f"config: expected a mapping with the parts {NETWORK!r} and {PHOTOS!r}, found {parts!r}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_text(json.dumps(_without_downloads(content)), encoding="utf-8")
        yield folder


def _without_downloads(content: object) -> object:
    """A configuration whose trunk has no published weights of its own: those of the whole network replace them."""
    if isinstance(content, Mapping):
        return {k: False if k == "use_pretrained_backbone" else _without_downloads(v) for k, v in content.items()}
    return [_without_downloads(item) for item in content] if isinstance(content, list) else content


@contextmanager
def _errors(source: str | Path) -> Iterator[None]:
    """Errors of transformers in terms of the setting."""
    try:
        yield
    except OSError as error:  # no such file, repository or revision, or no connection
        raise MissingWeightsError(
            f"weights: {source} is not on this machine and could not be downloaded ({_first_line(error)}). Download "
            "the repository on a machine with a network connection, and pass its folder"
        ) from error
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{source}: transformers cannot read it ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars of transformers in the meantime, and no table of the weights that do not fit."""
    said = transformers.utils.logging
    shown, level = said.is_progress_bar_enabled(), said.get_verbosity()
    said.disable_progress_bar()
    said.set_verbosity_error()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if shown:
            said.enable_progress_bar()


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("hf_detector needs transformers: pip install 'objemb[transformers]'") from error
    return transformers
