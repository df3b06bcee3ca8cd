"""The distillation card: a report in the model folder that compares a student with its teacher."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.capabilities import NetworkDetector
from objemb.disk import write_whole
from objemb.evaluation.shares import share
from objemb.evaluation.sizes import SIZE_KEYS
from objemb.images.names import without_folders
from objemb.models.build import versions
from objemb.structures import Photo
from objemb.training.comparison import Comparison, compare, counts_classes, detection_metrics
from objemb.training.data.base import Examples
from objemb.training.teacher import Teacher
from objemb.visualize.plots import bars, histogram, new_figure, remark, save

if TYPE_CHECKING:
    from objemb.visualize.plots import Axes


FORMAT, FORMAT_VERSION = "objemb-distillation-card", 1
JSON, MARKDOWN, PICTURE = "report.json", "report.md", "report.png"
#: Number of photos that are timed, and repetitions of each.
TIMED_PHOTOS, TIMED_REPEATS = 8, 3
#: Bars of the histogram of cosines, from -1 to 1.
BARS = 40
#: (model of the queries, model of the gallery) by name in the report.
PAIRS = {
    "teacher": ("teacher", "teacher"),
    "student": ("student", "student"),
    "student asks, teacher indexed": ("student", "teacher"),
    "teacher asks, student indexed": ("teacher", "student"),
}
SIZE_NOTE = "Sizes: the longer side of a box as a share of the longer side of its photo.\n"
#: Title of each table of retrieval by size, by its key in the report.
BY_SIZE = {"by_query_size": "size of the query", "by_object_size": "size of the objects to be found"}
#: Text of a panel without figures.
NO_FIGURES = "not available from\nthe validation data"
#: Titles of figures whose keys in the report are not readable.
TITLES = {**{f"AP_{key}": f"AP {size}" for size, key in SIZE_KEYS.items()}, "share": "share of the teacher's mAP"}


@torch.no_grad()
def make_card(
    student: BoxEmbedder,
    teacher: Teacher,
    examples: Examples,
    *,
    before: Mapping[str, Tensor] | None = None,
    about: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Compare a student with its teacher.

    Args:
        student: The student.
        teacher: The teacher.
        examples: Photos with ground-truth boxes on which neither was trained.
        before: State of the student's detector before training, None if training did not change it.
        about: Further entries of the card: data, settings, seed, command.

    Returns:
        JSON-ready mapping: ``cosine`` to the teacher by size of the object; ``retrieval`` (mAP and P@1 of ground-truth
        boxes for each pair of query and gallery model, and the share of the teacher's mAP; null without identities);
        ``retrieval_by_size`` (of teacher and student, by size of the query and by size of the objects to find; null
        without identities); ``detector`` (AP before and after training, also by size; null without labels or boxes);
        ``milliseconds`` per photo; ``parameters``; ``data``; and the entries of ``about``. Size classes are those of
        :mod:`objemb.evaluation.sizes`.
    """
    comparison = compare(student, teacher, examples)
    retrieval, by_size = _retrieval(comparison)
    photos = [examples[n].photo for n in range(min(TIMED_PHOTOS, len(examples)))]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "cosine": _cosine(comparison),
        "retrieval": retrieval,
        "retrieval_by_size": by_size,
        "detector": _detector(student.detector, before, examples),
        "milliseconds": _times(student, teacher, photos),
        "parameters": {
            "head": _size(student.head),
            "detector": _size(student.detector),
            "teacher": teacher.parameters,
        },
        "validation": {
            "photos": len(examples),
            "boxes": len(comparison.student),
            "identities": len(examples.instances),
        },
        "teacher": {"fingerprint": teacher.fingerprint, "dim": teacher.dim, "settings": teacher.settings},
        "environment": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(next(student.parameters()).device),
        },
        **(about or {}),
    }


def write_card(card: Mapping[str, object], folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.png`` into a folder, replacing those of an earlier card."""
    write_whole(folder / JSON, json.dumps(card, indent=2, allow_nan=False, default=str) + "\n")
    write_whole(folder / MARKDOWN, card_markdown(card))
    draw_card(card, folder / PICTURE)


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    parts = ["# Distillation card\n", SIZE_NOTE, _table("cosine to the teacher", card["cosine"]["by_size"])]
    by_size = card["retrieval_by_size"] or {}
    sized = {f"retrieval by {BY_SIZE[part]}": sizes for part, sizes in by_size.items()}
    parts.append(_table_or_note("retrieval of true boxes", card["retrieval"]))
    parts += [_table(title, {size: _beside(of) for size, of in sizes.items()}) for title, sizes in sized.items()]
    parts.append(_table_or_note("average precision", _aps(card["detector"])))
    if card["detector"] and card["detector"]["same"]:
        parts.append("Training did not change the detector.\n")
    parts.append(_table("milliseconds a photo", {"": card["milliseconds"]}))
    parts.append(_table("parameters", {"": card["parameters"]}))
    return "\n".join([*parts, *_made(card)])


def draw_card(card: Mapping[str, Any], file: Path) -> None:
    """Draw cosines, retrieval and average precision, also by size, and times.

    Args:
        card: The result of :func:`make_card`.
        file: PNG file to write or replace.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = new_figure(2, 4)
    histogram(axes[0, 0], "Cosine to the teacher", card["cosine"]["histogram"], -1, 1, y_label="boxes")
    rows = card["cosine"]["by_size"]
    means = {"cosine": [row["cosine"] for row in rows.values()]}
    bars(axes[0, 1], "Cosine by size (boxes)", means, _counted(rows, "boxes"), top=1.0, digits=2)
    by_size = card["retrieval_by_size"] or {}
    for axis, what in zip(axes[0, 2:], ("query", "object"), strict=True):
        _draw_by_size(axis, f"mAP by size of the {what} (queries)", by_size.get(f"by_{what}_size"))
    _draw_percents(axes[1, 0], "Retrieval of true boxes", card["retrieval"], ("mAP", "P@1"))
    detector = _aps(card["detector"])
    _draw_percents(axes[1, 1], "Detector before and after", detector, ("AP", "AP50", "AP75"))
    _draw_detector_by_size(axes[1, 2], "AP by size", detector)
    times = card["milliseconds"]
    kinds = ("student, one pass", "detector and teacher")
    title = f"Time of a photo, ratio {times['ratio']:.2f}"
    bars(axes[1, 3], title, {"ms": [times[k] for k in kinds]}, kinds, y_label="milliseconds")
    save(figure, file)


def _made(card: Mapping[str, Any]) -> list[str]:
    """Lines on how the student was trained; all further settings are in the JSON file."""
    teacher, validation, where = card["teacher"], card["validation"], card["environment"]
    method = teacher["settings"].get("describer", teacher["settings"]).get("name", "")
    run = card.get("run") or {}
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    facts = {
        "teacher": f"{method}, {teacher['dim']} dimensions, {str(teacher['fingerprint'])[:12]}",
        "validation": ", ".join(f"{count:,} {name}" for name, count in validation.items()),
        "examples": f"{card['examples']:,}" if "examples" in card else "",
        "run": ", ".join(f"{key} {run[key]}" for key in ("steps", "batch", "lr", "seed") if key in run),
        "command": f"`{without_folders(card['command'])}`" if "command" in card else "",
        "machine": f"{where['system']}, {where['cores']} cores, {where['threads']} threads, {where['device']}",
        "versions": versions,
        "date": where["date"],
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    return ["How it was made (all settings are in `report.json`):\n", *lines, ""]


def _retrieval(comparison: Comparison) -> tuple[dict[str, Any] | None, dict[str, object] | None]:
    """Retrieval figures of all pairs of models, and of teacher and student by size; None without a query."""
    figures = {name: comparison.retrieval(*pair) for name, pair in PAIRS.items()}
    if not figures["student"]["queries"]:
        return None, None
    of_teacher = figures["teacher"]["mAP"]
    retrieval = {name: {**of_pair, "share": share(of_pair["mAP"], of_teacher)} for name, of_pair in figures.items()}
    sides = {name: comparison.retrieval_by_size(*PAIRS[name]) for name in ("teacher", "student")}
    by_size: dict[str, Any] = {part: {} for part in BY_SIZE}
    for part, sizes in by_size.items():
        for size, teacher in sides["teacher"][part].items():
            student = sides["student"][part][size]  # the queries are the same boxes, so both have the size
            sizes[size] = {"teacher": teacher, "student": student, "share": share(student["mAP"], teacher["mAP"])}
    return retrieval, by_size


def _beside(of_size: Mapping[str, Any]) -> dict[str, object]:
    """One row of a table of retrieval by size."""
    sides = {who: of_size[who] for who in ("teacher", "student")}
    figures = {f"{who} {figure}": of[figure] for who, of in sides.items() for figure in ("mAP", "P@1")}
    return {**figures, "share": of_size["share"], "queries": of_size["student"]["queries"]}


def _cosine(comparison: Comparison) -> dict[str, object]:
    counts = torch.histc(comparison.cosines, BARS, -1.0, 1.0).long().tolist()
    sizes = {name: {"cosine": mean, "boxes": count} for name, (mean, count) in comparison.cosine_by_size().items()}
    return {"by_size": sizes, "histogram": counts}


def _detector(
    detector: NetworkDetector, before: Mapping[str, Tensor] | None, examples: Examples
) -> dict[str, object] | None:
    """AP with the state ``before`` and with the current state, which is restored afterwards."""
    after = detection_metrics(detector, examples)
    if not after:
        return None
    by_class = counts_classes(detector, examples)
    if before is None:
        return {"before": after, "after": after, "same": True, "by_class": by_class}
    now = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.load_state_dict(before)
    try:
        earlier = detection_metrics(detector, examples)
    finally:
        detector.load_state_dict(now)
    return {"before": earlier, "after": after, "same": False, "by_class": by_class}


def _times(student: BoxEmbedder, teacher: Teacher, photos: Sequence[Photo]) -> dict[str, float]:
    """Median milliseconds from a decoded photo to the vectors of the detected boxes."""
    regions = [student.describe([photo])[0].regions for photo in photos]  # warms up as well
    teacher.compute(photos[0], regions[0])
    detect = [_median(partial(student.regions.find, [photo])) for photo in photos]
    describe = [_median(partial(teacher.compute, p, f)) for p, f in zip(photos, regions, strict=True)]
    one = statistics.median([_median(partial(student.describe, [photo])) for photo in photos])
    two = statistics.median([d + t for d, t in zip(detect, describe, strict=True)])
    return {
        "student, one pass": one,
        "detector and teacher": two,
        "detector": statistics.median(detect),
        "ratio": two / one,
        "boxes": statistics.fmean(len(f) for f in regions),
    }


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED_REPEATS):
        start = time.perf_counter()
        call()  # returns tensors on the CPU, so an accelerator has finished
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _aps(detector: Mapping[str, object] | None) -> Mapping[str, Any] | None:
    return detector and {name: detector[name] for name in ("before", "after")}


def _table_or_note(title: str, rows: Mapping[str, Mapping[str, object]] | None) -> str:
    """A table, or a note that the figures are not available."""
    return _table(title, rows) if rows else f"No {title}: not available from the validation data.\n"


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    titles = [TITLES.get(name, name) for name in columns]
    lines = [f"| {title} | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(c)) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or (abs(value) >= 10 and value.is_integer()):  # a count
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _draw_percents(
    axis: Axes, title: str, rows: Mapping[str, Mapping[str, float]] | None, names: Sequence[str]
) -> None:
    """Draw one group of bars per row."""
    if not rows:
        remark(axis, title, NO_FIGURES)
        return
    groups = {
        name: [100 * row[name] for row in rows.values()] for name in names if all(name in r for r in rows.values())
    }
    bars(axis, title, groups, [name.replace(", ", ",\n") for name in rows], y_label="percent", top=100.0)


def _draw_by_size(axis: Axes, title: str, sizes: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Draw mAP of teacher and student side by side, by size."""
    if not sizes:
        remark(axis, title, NO_FIGURES)
        return
    groups = {who: [100 * of_size[who]["mAP"] for of_size in sizes.values()] for who in ("teacher", "student")}
    labels = _counted({size: of_size["student"] for size, of_size in sizes.items()}, "queries")
    bars(axis, title, groups, labels, y_label="percent", top=100.0)


def _draw_detector_by_size(axis: Axes, title: str, rows: Mapping[str, Mapping[str, float]] | None) -> None:
    """Draw AP before and after training side by side, by size."""
    if not rows:
        remark(axis, title, NO_FIGURES)
        return
    sizes = {size: f"AP_{key}" for size, key in SIZE_KEYS.items() if all(f"AP_{key}" in row for row in rows.values())}
    groups = {name: [100 * row[key] for key in sizes.values()] for name, row in rows.items()}
    bars(axis, title, groups, list(sizes), y_label="percent", top=100.0)


def _counted(rows: Mapping[str, Mapping[str, float]], count: str) -> list[str]:
    return [f"{name}\n({row[count]:.0f})" for name, row in rows.items()]
