"""How models run fastest on this machine, as ``objemb doctor --tune`` recorded it in the user's configuration.

The file is ``objemb/tuned.json`` in ``$XDG_CONFIG_HOME``, by default ``~/.config``; the environment variable
``OBJEMB_TUNED`` names another one, and where it is empty, no file is read.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.disk import write_whole
from objemb.runtimes.exported import EXPORT

log = logging.getLogger(__name__)

#: The environment variable that names the file.
VARIABLE = "OBJEMB_TUNED"
#: The key of the choices in the file.
CHOICES = "choices"
#: Stands for the format of an exported model where a model is one of PyTorch.
PYTORCH = "pytorch"


@dataclass(frozen=True)
class Choice:
    """How a model runs on a processor.

    Attributes:
        runtime: The runtime of an exported model; None for a PyTorch model.
        precision: Precision of its networks.
        speed: Photos per second, as a multiple of what the model does without a choice.
        cosine: Lowest cosine of a vector with that of the model without a choice.
        boxes: Share of boxes that both find.
    """

    runtime: str | None
    precision: str
    speed: float
    cosine: float
    boxes: float


def tuned_file() -> Path | None:
    """The file of choices, which need not exist; None if there is to be none."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(base) / "objemb" / "tuned.json"


def read_choice(card: Mapping[str, Any]) -> Choice | None:
    """The choice for a model on this processor, None if there is none.

    A file that cannot be used is as good as none, since a model runs without it; a warning names it.

    Args:
        card: The card of the model.
    """
    file = tuned_file()
    if file is None or not file.is_file():
        return None
    try:
        found = _read(file).get(processor(), {}).get(_key(card))
        return None if found is None else _checked(found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s is not used: %s; 'objemb doctor --tune' writes it anew", file, error)
        return None


def write_choice(card: Mapping[str, Any], choice: Choice) -> Path:
    """Record a choice for a model on this processor; those for other models and processors are kept.

    Args:
        card: The card of the model.
        choice: The choice.

    Returns:
        The file.

    Raises:
        ValueError: ``OBJEMB_TUNED`` is empty, so that there is no file.
        OSError: The file cannot be written.
    """
    file = tuned_file()
    if file is None:
        raise ValueError(f"{VARIABLE}: expected the name of a file to write, found an empty one")
    choices: dict[str, Any] = {}
    if file.is_file():
        try:
            choices = _read(file)
        except (ValueError, AttributeError) as error:
            log.warning("%s is written anew: %s", file, error)
    of_processor = choices.get(processor())
    choices[processor()] = {**(of_processor if isinstance(of_processor, dict) else {}), _key(card): asdict(choice)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({CHOICES: choices}, indent=1) + "\n")
    return file


def processor() -> str:
    """The name of the processor and the number of its cores, for which a choice holds."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # not Linux
        pass
    return f"{name}, {os.cpu_count()} cores"


def _read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    choices = content.get(CHOICES) if isinstance(content, dict) else None
    if not isinstance(choices, dict):
        raise ValueError(f"expected a JSON object with the key {CHOICES!r}, found {type(content).__name__}")
    return choices


def _checked(found: Mapping[str, Any]) -> Choice:
    runtime = found["runtime"]
    return Choice(
        runtime=None if runtime is None else str(runtime),
        precision=str(found["precision"]),
        speed=checks.positive("speed", found["speed"]),
        cosine=checks.between("cosine", found["cosine"], -1, 1),
        boxes=checks.between("boxes", found["boxes"], 0, 1),
    )


def _key(card: Mapping[str, Any]) -> str:
    """A model and what it runs as: its fingerprint, the format of an export and its precision."""
    export = card.get(EXPORT)
    kind = PYTORCH if export is None else f"{export['format']} {export['precision']}"
    return f"{card['fingerprint']} {kind}"
