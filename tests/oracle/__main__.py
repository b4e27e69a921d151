"""`python -m tests.oracle RUN`: check every image of a recorded run again.

RUN is a directory that a Recorder filled. Exit status 0: every image is a prefix; 1: not so.
"""

import sys
from pathlib import Path

from tests.oracle.checker import check
from tests.oracle.recorder import image_paths, replay
from tests.oracle.stamps import read_image


def main(arguments: list[str]) -> int:
    """Print one line per image; the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    wrong = 0
    for judgement in replay(directory):
        paths = image_paths(directory, judgement.frozen.name, len(judgement.history.sectors))
        if not all(path.exists() for path in paths):
            print(f"{judgement.frozen.name}: not kept")
            continue
        image = read_image(paths, judgement.run, judgement.history.sectors)
        verdict = check(judgement.history, image, judgement.frozen.since, judgement.frozen.by)
        wrong += not verdict.ok
        print(f"{judgement.frozen.name}: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
