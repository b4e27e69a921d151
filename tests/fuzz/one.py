"""Run one target under libFuzzer, by atheris: ``python -m tests.fuzz.one TARGET [OPTION...]``.

``tests.fuzz`` starts this, a process for each target, because libFuzzer ends its process; the
options are libFuzzer's own.
"""

import sys

import atheris

with atheris.instrument_imports(include=["pratima_iscsi"]):
    from tests.fuzz.targets import run


def main() -> None:
    """Never returns."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
