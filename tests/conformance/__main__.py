"""The conformance table: ``pratima serve`` with a replica, and tgtd, by libiscsi's suite.

    python -m tests.conformance                            # prints it
    python -m tests.conformance --write docs/conformance.md

``--write`` replaces what stands between the page's two marks. It exits with 1 when our own outcomes
are not those of ``expected/``, or the replica is not equal at the end.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.tgtd import missing_packages, tgtd
from tests.conformance.cu_text import Outcome, counts, deviations, expectations, suite_table
from tests.conformance.test_iscsi_test_cu import EXPECTED, FAMILIES, VOLUME_BYTES, suite
from tests.conformance.tools import package_version
from tests.integration.daemons.nodes import Pair, directory

BEGIN: Final = "<!-- made by `python -m tests.conformance --write docs/conformance.md` -->"
END: Final = "<!-- end -->"
OURS: Final = "Pratima, replica attached"
Found = dict[str, dict[str, Outcome]]
"""Outcomes by family."""


def ours() -> Found:
    """Our target, with a replica that must be equal afterwards."""
    with directory() as place, Pair(place, size=VOLUME_BYTES).in_step() as pair:
        status = pair.primary.status()
        url = f"iscsi://{status.portal}/{status.target}/0"
        found = {family: suite(family, url) for family in FAMILIES}
        pair.wait_equal()
    return found


def theirs() -> Found:
    """tgtd with its defaults, on a file of the same size."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as place:
        volume = Path(place) / "tgtd.img"
        with volume.open("wb") as file:
            file.truncate(VOLUME_BYTES)
        with tgtd(volume) as portal:
            return {family: suite(family, portal.url) for family in FAMILIES}


def page(columns: dict[str, Found]) -> str:
    """The totals, the suites, and what tgtd and we do not pass, as Markdown."""
    lines = ["passed / failed / skipped, by family:", ""]
    lines += [" | ".join(["| family", *columns, ""]).rstrip(), "|---|" + "---|" * len(columns)]
    for family in FAMILIES:
        cells = [counts(found[family]) for found in columns.values()]
        lines.append(" | ".join([f"| {family}", *cells, ""]).rstrip())
    for family in FAMILIES:
        lines += ["", f"and by suite of the family {family}:", ""]
        lines.append(suite_table({name: found[family] for name, found in columns.items()}))
    failed = {
        name: [
            test
            for family in FAMILIES
            for test, outcome in found[family].items()
            if outcome is Outcome.FAILED
        ]
        for name, found in columns.items()
    }
    for name, tests in failed.items():
        lines += ["", f"Failed by {name}: {', '.join(tests) or 'none'}."]
    return "\n".join(lines)


def replace(path: Path, text: str) -> None:
    """Put ``text`` between the page's marks."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{path} has no block between\n{BEGIN}\nand\n{END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def main() -> None:
    """Run both, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the page's block")
    options = parser.parse_args()
    version = package_version("libiscsi-bin")
    columns = {OURS: ours()}
    if missing_packages():
        print("tgtd is missing (apt install tgt): our own column only", file=sys.stderr)
        if options.write:
            sys.exit(1)
    else:
        columns[f"tgtd {package_version('tgt')}"] = theirs()
    text = f"iscsi-test-cu of libiscsi-bin {version}, `-d`, a volume of 256 MiB;\n" + page(columns)
    if options.write:
        replace(options.write, text)
    else:
        print(text)
    wrong = [
        told
        for family, file in FAMILIES.items()
        for told in deviations(columns[OURS][family], expectations(EXPECTED / file))
    ]
    if wrong:
        sys.exit("Not as expected/ says:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
