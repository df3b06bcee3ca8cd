"""Output of an evaluation: JSON, Markdown, plots, failure browsers, and files for the embedding projector."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from objemb.checks import ObjembError
from objemb.cli.output import note
from objemb.cli.programs.evaluations.failures_page import failures_page
from objemb.cli.programs.evaluations.measure import Measured
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry
from objemb.disk import write_whole
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.failures import worst_queries
from objemb.evaluation.matrix import matrix_markdown
from objemb.evaluation.metrics import best_iou
from objemb.evaluation.pictures import draw_results
from objemb.evaluation.projector import THUMBNAIL, Embedding, box_text, evenly, file_name
from objemb.evaluation.report import localisation_table, markdown_table, part_table, region_table, score_text
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.images.decode import read_photo
from objemb.structures import ImageRows
from objemb.types import Float32Array, Int64Array

JSON, MARKDOWN = "results.json", "results.md"
#: Minimum IoU at which a region counts as showing an object.
FITS = 0.5
#: Side to which photos are decoded for the thumbnails of the projector, in pixels; larger than a thumbnail, because
#: small objects are cut out of it.
CUT_FROM = 512


def markdown(report: Mapping[str, Any]) -> str:
    """All tables of a report: methods by sets if there are several sets, then each set separately."""
    if "matrix" not in report:
        return _tables(report["results"])
    parts = [matrix_markdown(report["matrix"])]
    for of_set in report["sets"]:
        if "error" in of_set:
            continue
        of_results = [r for r in report["results"] if r["set"] == of_set["name"]]
        parts.append(f"\n## {of_set['name']}\n\n" + _tables(of_results))
    return "".join(parts)


def about(report: Mapping[str, Any]) -> str:
    """Versions, machine and sets of a report, to accompany its tables."""
    facts = report["environment"]
    machine = facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    sets = [s for s in report.get("sets", [report.get("set")]) if "error" not in s]
    counts = "".join(
        f"- {s['name']}: {s['database']} {s['level']}s ({s['distractors']} distractors), {s['queries']} queries; "
        f"protocol {s['protocol']}\n"
        for s in sets
    )
    return (
        f"\n```\n{facts['command']}\n```\n\n{counts}- {facts['date']}, seed {facts['seed']}, {versions}\n"
        f"- {machine['system']} {machine['processor']}, {machine['cores']} cores, {facts['threads']} threads, "
        f"device {facts['device']}; ms/image without decoding; x network: relative to a forward pass of the same "
        f"network\n"
    )


def _tables(results: Sequence[Mapping[str, object]]) -> str:
    titles = {
        "By the kind of query, mAP / P@1 (queries)": part_table(results, "by_kind"),
        "By the side of the query's box as a share of its photo's, mAP / P@1 (queries)": part_table(
            results, "by_query_size"
        ),
        "By the side of the object as a share of its photo's, mAP / P@1 (queries)": part_table(
            results, "by_object_size"
        ),
        "By the side of the object as a share of its photo's, IoU / CorLoc (boxes)": localisation_table(results),
        "By the most regions per photo (vectors per image)": region_table(results),
    }
    rest = "".join(f"\n{title}:\n\n{text}" for title, text in titles.items() if text)
    return markdown_table(results) + rest


def write(report: Mapping[str, object], args: argparse.Namespace) -> None:
    """Write the report as JSON and Markdown to the files that the command line names."""
    text, tables = json.dumps(report, indent=2, allow_nan=False) + "\n", markdown(report)
    files = [(args.output, text), (args.markdown, tables)]
    if args.report is not None:
        files += [(args.report / JSON, text), (args.report / MARKDOWN, tables + about(report))]
    for path, content in files:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)


def set_folder(report: Path, name: str, several: bool) -> Path:
    """Folder for the plots of a set: a subfolder if there are several sets."""
    return report / file_name(name) if several else report


def draw(results: Sequence[Mapping[str, object]], folder: Path, name: str) -> None:
    """Draw the plots of a set; a note is printed if matplotlib is missing."""
    try:
        draw_results(results, folder, name)
    except ImportError as error:
        note(str(error))


def write_failures(
    measured: Measured,
    data: EvaluationSet,
    task: RetrievalTask,
    environment: Mapping[str, object],
    folder: Path,
    args: argparse.Namespace,
) -> Path:
    """Write the failure browser of a method on a set; returns its path."""
    worst = worst_queries(task, measured.evaluation, data.objects, args.failures, args.hits)
    failures = [failure for failure in worst if failure.average_precision < 1]
    scores = measured.result["scores"]
    figures = ", ".join(f"{name} {score_text(name, value)}" for name, value in scores.items())
    file = folder / f"failures_{file_name(measured.result['method'])}.html"
    folder.mkdir(parents=True, exist_ok=True)
    page = failures_page(measured.result, environment, data, failures, figures)
    write_whole(file, page)
    return file


def embedding(
    name: str, described: DescribedTask, data: EvaluationSet, task: RetrievalTask, most: int
) -> Embedding | None:
    """Vectors with thumbnails: queries, up to a third of the maximum, and evenly spaced rows of the database.

    Returns:
        None if nothing could be described, or for visual words.
    """
    queries, database = described.queries, described.database
    if not isinstance(queries, ImageRows) or not isinstance(database, ImageRows):
        return None
    asked = evenly(len(queries.vectors), min(len(queries.vectors), max(1, most // 3)))
    rows = evenly(len(database.vectors), most - len(asked))
    if not len(rows) + len(asked):
        return None
    shown = [*_stored(task, database, rows, data), *_asked(task, queries, asked)]
    labels: dict[str, Sequence[str]] = {key: [row[key] for row in shown] for key in ("instance", "kind", "file", "box")}
    vectors = np.concatenate([database.vectors[rows], queries.vectors[asked]])
    boxes = np.concatenate([database.boxes[rows], queries.boxes[asked]])
    return Embedding(name, vectors, labels, _thumbnails(labels["file"], boxes, data))


def _stored(task: RetrievalTask, rows: ImageRows, chosen: Int64Array, data: EvaluationSet) -> Iterator[dict[str, str]]:
    """Labels of rows of the database. A region is labelled with the object whose true box it covers, if any."""
    truths: dict[str, list[SetEntry]] = {}
    for entry in data.objects:
        truths.setdefault(entry.file, []).append(entry)
    for row in chosen.tolist():
        entry = task.database[int(rows.items[row])]
        known = truths.get(entry.file, []) if entry.box is None else []
        instances = _covered(rows.boxes[row], known) if known else ", ".join(entry.instances)
        yield _labels("database", entry, instances, rows.boxes[row])


def _asked(task: RetrievalTask, rows: ImageRows, chosen: Int64Array) -> Iterator[dict[str, str]]:
    for row in chosen.tolist():
        entry = task.queries[int(rows.items[row])]
        yield _labels("query", entry, ", ".join(entry.instances), rows.boxes[row])


def _covered(box: Float32Array, truths: Sequence[SetEntry]) -> str:
    """Instances of the true box that a region covers, or ``none``."""
    ious = [float(best_iou([box], [truth.box], [0])[0]) for truth in truths]  # type: ignore[arg-type]  # all have boxes
    best = int(np.argmax(ious))
    return ", ".join(truths[best].instances) if ious[best] >= FITS else "none"


def _labels(kind: str, entry: SetEntry, instances: str, box: Float32Array) -> dict[str, str]:
    return {"instance": instances or "unknown", "kind": kind, "file": entry.file, "box": box_text(box)}


def _thumbnails(files: Sequence[str], boxes: Float32Array, data: EvaluationSet) -> list[Image.Image | None]:
    """A thumbnail of each box. Every photo is decoded once."""
    of_file: dict[str, list[int]] = {}
    for number, file in enumerate(files):
        of_file.setdefault(file, []).append(number)
    cuts: list[Image.Image | None] = [None] * len(files)
    for file, numbers in of_file.items():
        try:
            photo = read_photo(data.photo(file), side=CUT_FROM)
        except ObjembError:
            continue  # already reported when it was described, or deleted since then
        whole = Image.fromarray(photo.interleaved())
        scale = np.array([whole.width / photo.size[1], whole.height / photo.size[0]] * 2)
        for number in numbers:
            x1, y1, x2, y2 = (boxes[number] * scale).round().astype(int).tolist()
            cut = whole.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
            cut.thumbnail((THUMBNAIL, THUMBNAIL))
            cuts[number] = cut
    return cuts
