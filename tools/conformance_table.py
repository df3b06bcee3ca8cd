"""Run the cases that every kind of index has to pass, and print them as a table: case by engine.

    python tools/conformance_table.py                                        # all that are installed
    OBJEMB_TEST_QDRANT=http://localhost:6333 python tools/conformance_table.py -k TestQdrant

Arguments are handed to pytest. The exit code is 1 if a case failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CASES = "tests/index/stores/test_conformance.py"
#: What a case may end with, by the element of the report.
OUTCOMES = {"failure": "**failed**", "error": "**failed**", "skipped": "not run"}


def outcomes_of(report: str) -> dict[str, dict[str, str]]:
    """How each case ended, by the name of the case and of the engine, of a report in JUnit's XML."""
    found: dict[str, dict[str, str]] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        name = case.attrib["name"].removeprefix("test_").replace("_", " ")
        engine = case.attrib["classname"].rpartition(".")[2].removeprefix("Test")
        ended = [OUTCOMES[part.tag] for part in case if part.tag in OUTCOMES]
        found.setdefault(name, {})[engine] = ended[0] if ended else "passed"
    return found


def table_of(outcomes: dict[str, dict[str, str]]) -> str:
    """The outcomes as a table in Markdown."""
    engines = list(dict.fromkeys(engine for ended in outcomes.values() for engine in ended))

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [row(["case", *engines]), row(["---"] * (1 + len(engines)))]
    lines += [row([name, *(ended.get(engine, "not run") for engine in engines)]) for name, ended in outcomes.items()]
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", CASES]
        done = subprocess.run([*command, *sys.argv[1:]], cwd=CHECKOUT, stdout=sys.stderr, check=False)
        outcomes = outcomes_of(report.read_text())
    print(table_of(outcomes))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
