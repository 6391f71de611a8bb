"""What a run of these tests has seen of each environment, for docs/models-tested.json: `make models-table`.

Nothing in it is written by hand: builds and references are what the records of the builds say, and the rest is how the
tests of test_conformance.py ended. A run replaces what it has tested, and leaves the rest as it was.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rootstock.builds.packages import main_package
from rootstock.config.environment_file import packaged_source
from rootstock.root.records import BuildRecord, active_build, read_build
from tests.models.cases import CASES

FILE = "MODELS_TABLE"  # the variable that names the file
_CONFORMANCE, _BIT_FOR_BIT = "test_conformance.py", "test_bit_for_bit_the_librarys_own_calculator"
Outcomes = dict[str, dict[str, str]]  # environment -> test -> passed, failed or skipped


class Seen:
    """How the tests of a run ended, and where the builds are that they ran with."""

    def __init__(self) -> None:
        self.outcomes: Outcomes = {}
        self.roots: dict[str, Path] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        """Keep the worst of what a test's setup, call and teardown came to."""
        report = yield
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")  # type: ignore[attr-defined]
        if name and item.path.name == _CONFORMANCE:
            tests = self.outcomes.setdefault(name, {})
            test = item.originalname  # type: ignore[attr-defined]
            if report.when == "call" or report.outcome != "passed":
                tests[test] = "failed" if tests.get(test) == "failed" else report.outcome
        return report

    def write(self, file: Path) -> None:
        """Put what was seen into the table."""
        table = json.loads(file.read_text()) if file.exists() else {"environments": {}}
        today = datetime.date.today().isoformat()
        for name, tests in self.outcomes.items():
            if _BIT_FOR_BIT not in tests:  # a part of the list says less than what is in the table
                continue
            folder = active_build(self.roots[name] / "active" / name) if name in self.roots else None
            record = read_build(folder) if folder else None
            if record:
                table["environments"][name] = {"date": today, **_row(name, record, tests)}
        table["environments"] = dict(sorted(table["environments"].items()))
        file.write_text(json.dumps({"date": today, **{k: table[k] for k in table if k != "date"}}, indent=1) + "\n")


def _row(name: str, record: BuildRecord, tests: Mapping[str, str]) -> dict[str, Any]:
    source, ended = packaged_source(name), Counter(tests.values())
    package, version = main_package(source, record)
    weights = "random" if "MODEL" in CASES[name].direct and not CASES[name].given else "released"
    if tests.get(_BIT_FOR_BIT) == "skipped":
        weights = "not here"
    return {
        "package": package,
        "version": version,
        "python": record.python.rpartition(".")[0],
        "megabytes": round(record.bytes / 1e6),
        "files": record.inodes,
        "weights": weights if source.rootstock.get("licence", {}).get("weights") else "none",
        "references": references(name, record),
        "bit_for_bit": {"passed": True, "failed": False}.get(tests.get(_BIT_FOR_BIT, "")),
        "conformance": {key: ended[key] for key in ("passed", "failed", "skipped")},
    }


def references(name: str, record: BuildRecord) -> dict[str, Any]:
    """Return how many references of an environment were met, and the largest differences from published values."""
    published = {each.name: each.source for each in packaged_source(name).references()}
    passed: dict[str, list[bool | None]] = {}
    largest: dict[str, float] = {}
    for check in record.verification:
        reference = check["reference"]
        passed.setdefault(reference, []).append(check["passed"])
        if check["passed"] is not None and check["source"] == published.get(reference):
            largest[check["property"]] = max(largest.get(check["property"], 0.0), check["error"])
    ended = Counter("missed" if False in each else "not_run" if None in each else "passed" for each in passed.values())
    return {
        **{word: ended[word] for word in ("passed", "not_run", "missed")},
        "largest": {name: float(f"{error:.2g}") for name, error in largest.items()},
    }
