"""What iscsi-test-cu says, as outcomes: its own totals count a skipped test as passed.

One rule: a test passes only if its text says ``passed`` and tells of nothing skipped.
"""

import enum
import re
from collections import Counter
from pathlib import Path
from typing import Final

SUITE: Final = re.compile(r"^Suite: (\S+)")
TEST: Final = re.compile(r"^  Test: (\S+) \.\.\.(.*)$")


class Outcome(enum.Enum):
    """What became of one test."""

    PASSED = "pass"
    FAILED = "fail"
    SKIPPED = "skip"


def outcomes(text: str) -> dict[str, Outcome]:
    """Outcome of each test, by "Suite.Test", from the tool's verbose text (-v)."""
    found: dict[str, Outcome] = {}
    suite = test = ""
    skipped = False
    for line in text.splitlines():
        begins = TEST.match(line)
        if SUITE.match(line):
            suite = line.split()[1]
            continue
        if begins:
            test, skipped = f"{suite}.{begins[1]}", False
            found[test] = Outcome.FAILED  # until it says otherwise: the tool may die in a test
            line = begins[2]
        if not test:
            continue
        # What is printed after the test's end may stand on the same line.
        if line.startswith("passed"):
            found[test] = Outcome.SKIPPED if skipped else Outcome.PASSED
            test = ""
        elif line.startswith("FAILED"):
            test = ""
        skipped = skipped or "[SKIPPED]" in line
    return found


def expectations(path: Path) -> dict[str, Outcome]:
    """The expected deviations: lines of "Suite.Test  skip|fail  reason"; # begins a comment."""
    expected: dict[str, Outcome] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.split("#")[0].split(None, 2)
        if not words:
            continue
        if len(words) < 3 or words[0] in expected:
            raise ValueError(f"{path.name}:{number}: wants a test, an outcome and a reason, once")
        expected[words[0]] = Outcome(words[1])
    return expected


def deviations(found: dict[str, Outcome], expected: dict[str, Outcome]) -> list[str]:
    """Where the outcomes are not the expected ones: an unexpected pass is one too."""
    told = []
    for test, outcome in found.items():
        wanted = expected.get(test, Outcome.PASSED)
        if outcome is not wanted:
            told.append(f"{test}: {outcome.value}, expected {wanted.value}")
    told += [
        f"{test}: expected {expected[test].value}, not run" for test in expected.keys() - found
    ]
    return sorted(told)


def totals(found: dict[str, Outcome]) -> tuple[int, int, int]:
    """How many passed, failed and were skipped."""
    counts = Counter(found.values())
    return counts[Outcome.PASSED], counts[Outcome.FAILED], counts[Outcome.SKIPPED]


def suite_table(columns: dict[str, dict[str, Outcome]]) -> str:
    """A row for each suite, a column for each target: passed / failed / skipped, as Markdown."""
    tests = sorted({test for found in columns.values() for test in found})
    suites = list(dict.fromkeys(test.split(".")[0] for test in tests))
    lines = [
        " | ".join(["| suite", *columns, ""]).rstrip(),
        "|---|" + "---|" * len(columns),
    ]
    for suite in suites:
        cells = [counts(found, suite) for found in columns.values()]
        lines.append(" | ".join([f"| {suite}", *cells, ""]).rstrip())
    return "\n".join(lines)


def counts(found: dict[str, Outcome], suite: str = "") -> str:
    """passed / failed / skipped of one suite, or of all."""
    chosen = {t: o for t, o in found.items() if not suite or t.split(".")[0] == suite}
    return " / ".join(map(str, totals(chosen)))
