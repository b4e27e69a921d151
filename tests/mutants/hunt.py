"""``python -m tests.mutants.hunt``: run mutants in fresh processes and say what killed each.

python -m tests.mutants.hunt                      the whole bank
python -m tests.mutants.hunt --only WORDS         those whose name has WORDS in it
python -m tests.mutants.hunt --seeds 500          look longer than the bank says
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import CodeType, ModuleType

from tests.mutants.bank import MUTANTS, Mutant

PROCESSES = 2
SECONDS_MAX = 900


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one mutant; ``check`` is empty when it lived."""

    mutant: str
    seed: int
    check: str
    where: str


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the module's source with the mutation in it, past every cache."""

    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """The mutated module's code."""
        source = self.get_data(self.path).decode()
        count = source.count(self._mutant.old)
        assert count == 1, f"{self._mutant.name}: its text stands {count} times in {fullname}"
        return compile(source.replace(self._mutant.old, self._mutant.new), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The mutated module's spec; nothing for any other module."""
        if fullname != self._mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        return importlib.util.spec_from_loader(fullname, _Loader(self._mutant, spec.origin))


def hunt(mutant: Mutant, seeds: int) -> Found:
    """In this process: break the code, then run seeds until one of them tells."""
    sys.meta_path.insert(0, _Finder(mutant))
    from tests.simulation.hunts import HUNTS
    from tests.simulation.run import run_setup

    scenario = None
    if mutant.hunt.startswith("scenario "):
        module, name = mutant.hunt.removeprefix("scenario ").split(".")
        scenario = getattr(importlib.import_module(f"tests.scenarios.{module}"), name)
    assert mutant.module in sys.modules
    for seed in range(1 if scenario else seeds):
        try:
            if scenario:
                scenario()
            else:
                run_setup(seed, HUNTS[mutant.hunt])
        except Exception as error:  # noqa: BLE001 - whatever the mutant breaks counts
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].name}"
            return Found(mutant.name, seed, f"{type(error).__name__}: {error}"[:110], place)
    return Found(mutant.name, seeds, "", "")


def hunt_apart(mutant: Mutant, seeds: int) -> Found:
    """The same in a process of its own."""
    number = MUTANTS.index(mutant)
    command = [sys.executable, "-m", "tests.mutants.hunt", "--child", str(number)]
    command += ["--seeds", str(seeds)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert run.returncode == 0, run.stderr[-2000:]
    return Found(**json.loads(run.stdout.splitlines()[-1]))


def main() -> int:
    """Hunt for the mutants that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.hunt", description=__doc__)
    parser.add_argument("--child", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=0)
    options = parser.parse_args()
    if options.child is not None:
        mutant = MUTANTS[options.child]
        found = hunt(mutant, options.seeds or mutant.seeds)
        print(json.dumps({n: getattr(found, n) for n in Found.__slots__}))
        return 0
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    with ThreadPoolExecutor(PROCESSES) as pool:
        lived = 0
        for found in pool.map(lambda m: hunt_apart(m, options.seeds or m.seeds), chosen):
            lived += not found.check
            verdict = f"seed {found.seed}: {found.check} ({found.where})"
            print(f"{found.mutant}: {verdict if found.check else 'LIVES'}", flush=True)
    print(f"{len(chosen)} mutants, {lived} live")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
