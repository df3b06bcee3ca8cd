"""Model folders on the Hugging Face Hub: ``hf:ORG/NAME`` and ``hf:ORG/NAME@REVISION`` wherever a model is named.

``HF_ENDPOINT`` selects another hub; ``huggingface_hub`` handles credentials and the cache of downloads.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objemb.card import CARD, ModelCard, checked_file, read_card
from objemb.checks import ObjembError
from objemb.models.origins import recorded
from objemb.runtimes.exported import EXPORT
from objemb.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
#: Owner, name, and optionally a branch, tag or commit.
NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
#: The report of a training, stored beside the card; it becomes part of the model card on the hub.
REPORT = "report.md"
README = "README.md"


def is_on_hub(model: str | Path) -> bool:
    """Whether the name of a model refers to the hub."""
    return str(model).startswith(PREFIX)


def model_folder(model: str | Path) -> Path:
    """The folder of a model on this machine; a model on the hub is downloaded unless it is in the cache.

    Only the card of a repository and the files listed in it are downloaded, all of one commit. Nothing is executed.

    Args:
        model: A folder, or ``hf:ORG/NAME`` with or without ``@REVISION``.

    Raises:
        ValueError: The name of the repository is invalid.
        ObjembError: The model is not available: no network, or no such repository, revision or model.
        ImportError: ``huggingface_hub`` is not installed.
    """
    if not is_on_hub(model):
        return Path(model)
    repository, revision = _parsed(str(model))
    api = _api()
    with _hub_errors(str(model)):
        card = Path(api.hf_hub_download(repository, CARD, revision=revision))
    # the folder of a download is named by its commit: the other files are taken from the same one
    for name in read_card(card.parent)["files"]:
        if name != Path(name).name:
            raise ObjembError(f"{model}: expected files of the folder itself, found {name!r}")
        with _hub_errors(str(model)):
            api.hf_hub_download(repository, name, revision=card.parent.name)
    return card.parent


def push_model(folder: str | Path, model: str, *, license: str, private: bool = False, message: str = "") -> str:
    """Upload a model folder with a readable model card; the repository is created if it does not exist.

    Args:
        folder: Any model folder. Its files are checked first; besides them only the report of a training is uploaded.
        model: ``hf:ORG/NAME``, with ``@BRANCH`` for a branch other than the main one.
        license: License of the weights by its name on the hub, such as ``apache-2.0``, for the card.
        private: Whether a new repository is private.
        message: Commit message.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError, ArtefactMismatchError: The folder is not a model folder, or it is damaged.
        ValueError: The name of the repository is invalid.
        ObjembError: The upload failed: no network, or no permission.
        ImportError: ``huggingface_hub`` is not installed.
    """
    folder = Path(folder)
    card = read_card(folder)
    files = [checked_file(folder, card, name) for name in card["files"]]
    repository, revision = _parsed(model)
    report = folder / REPORT
    api = _api()
    with tempfile.TemporaryDirectory() as staging, _hub_errors(model):
        for file in (*files, folder / CARD):
            shutil.copyfile(file, Path(staging, file.name))
        text = report.read_text(encoding="utf-8") if report.is_file() else ""
        Path(staging, README).write_text(hub_card(card, repository, license, text), encoding="utf-8")
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=staging,
            revision=revision,
            commit_message=message or f"objemb model {card['fingerprint'][:12]}",
        )
    return str(commit.commit_url)


def hub_card(card: ModelCard, repository: str, license: str, report: str) -> str:
    """The model card on the hub, Markdown with YAML front matter.

    Args:
        card: Card of the model folder.
        repository: ``ORG/NAME``.
        license: As for :func:`push_model`.
        report: Report of a training in Markdown; empty if there is none.
    """
    settings, provenance = card["settings"], card.get("provenance", {})
    exported = card.get(EXPORT)
    compared = _comparisons(exported) if exported else []
    method = str(settings["describer"]["name"])
    tags = ["objemb", "image-retrieval", "instance-retrieval", "object-embeddings", method]
    tags += [exported["format"]] if exported else ["pytorch"]
    training, whitening = provenance.get("training") or {}, card.get("whitening")
    weights = {**recorded(provenance), **{f"fitted {k}": v["fitted_on"] for k, v in card.get("fitted", {}).items()}}
    facts = {
        "fingerprint": f"`{card['fingerprint']}`",
        "method": method,
        "dimension": card.get("dim"),
        "whitening": whitening.get("fitted_on", "none") if whitening else "none",
        **({"exported to": f"{exported['format']}, {exported['precision']}"} if exported else {}),
        "trained by the task": training.get("task", "none"),
        "command": f"`{' '.join(map(str, provenance.get('command') or ['unknown']))}`",
        "created": provenance.get("created", "unknown"),
        "versions": ", ".join(f"{k} {v}" for k, v in (provenance.get("versions") or {}).items()) or "unknown",
    }
    head = ["---", "library_name: objemb", f"license: {license}", "pipeline_tag: image-feature-extraction", "tags:"]
    return "\n".join(
        [
            *head,
            *(f"- {tag}" for tag in tags),
            "---",
            f"# {repository}",
            "",
            "A model of objemb, which finds photos that show the same object.",
            "",
            "```python",
            "import objemb",
            "",
            f'model = objemb.load("{PREFIX}{repository}")',
            "```",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {_cell(value)} |" for key, value in facts.items()),
            "",
            "## Data",
            "",
            *(f"- {key}: {_cell(value)}" for key, value in weights.items()),
            *([] if weights else ["Nothing is recorded of where the weights come from."]),
            "",
            "## Figures",
            "",
            *(f"- {line}" for line in compared),
            *([""] if compared and report.strip() else []),
            report.strip() or ("" if compared else "None were recorded with this model."),
            "",
        ]
    )


def _comparisons(exported: Mapping[str, Any]) -> list[str]:
    """What ``objemb export --verify`` found, a line for each runtime."""
    return [
        f"{_cell(name)} against PyTorch, {found['photos']} {found.get('on', 'photos')}: {found['matched']} of "
        f"{found['matched'] + found['unmatched']} boxes, scores within {found['score']:.1g}, least cosine of a vector "
        f"{found['cosine']:.6f}, mAP {found['map_exported']:.1f} ({found['map_pytorch']:.1f} by PyTorch)"
        for name, found in exported["verified"].items()
    ]


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _parsed(model: str) -> tuple[str, str | None]:
    found = NAME.fullmatch(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else None
    if found is None:
        raise ValueError(f"model: expected {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION, found {model!r}")
    return found["repository"], found["revision"]


@contextmanager
def _hub_errors(model: str) -> Iterator[None]:
    """A context that turns the many types of errors of the hub into one, with the name of the model and the reason."""
    try:
        yield
    except ObjembError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ObjembError(
            f"{model}: expected a repository within reach on {_endpoint()}, found {type(error).__name__}: {reason}"
        ) from error


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise ImportError(f"{PREFIX} needs the hub: pip install 'objemb[hub]'") from error
    return HfApi(endpoint=_endpoint(), library_name="objemb", library_version=__version__)
