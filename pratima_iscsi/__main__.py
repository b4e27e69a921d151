"""Where ``pratima`` begins, as a command and as ``python -m pratima_iscsi``.

One rule: Ctrl-C ends it at once and quietly, from here on and through all imports, until something
is under way that has an end of its own: a daemon's loop, or a picture on a terminal. So nothing is
imported here that takes time.
"""

import os
import signal

from pratima_iscsi import EXIT_INTERRUPTED

_STANDARD_ERROR = 2


def main() -> None:
    """Run the command line and exit."""
    _fill_standard_descriptors()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        # No KeyboardInterrupt: whatever is just being imported might show it, or swallow it.
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    from pratima_iscsi.cli import main as run  # what takes its time

    run()


def _fill_standard_descriptors() -> None:
    """Open /dev/null where one of 0 to 2 is closed: a volume or a socket would take its place, and
    what was meant for a terminal would be written there."""
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(lowest, True)
    os.close(lowest)


if __name__ == "__main__":
    main()
