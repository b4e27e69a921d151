"""What a daemon says on its standard output and error, written by threads of their own.

Whoever should read it may stand still: a stopped terminal, a log collector that hangs. One rule:
nobody waits for a reader. Lines that find no room are counted, and the count is said in their place
once there is room.
"""

import collections
import logging
import os
import threading
from typing import Final

from pratima_iscsi.limits import OUTPUT_LINES_MAX

_LOST: Final = "lines that are missing here, because they could not be written: %d"


class Output:
    """The lines for one descriptor, which may be one that others share and is left as it is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._unwritten: collections.deque[tuple[bytes, int]] = collections.deque()
        """Each with the number of lines that are lost with it. At most OUTPUT_LINES_MAX."""
        self._lost = 0
        self._thread: threading.Thread | None = None

    def say(self, line: str) -> None:
        """Have a line written as soon as it can be."""
        with self._changed:
            if self._thread is None:
                name = f"output-{self._descriptor}"
                # A daemon thread: it may never come back from a write.
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            if len(self._unwritten) < OUTPUT_LINES_MAX:
                self._append(line, 1)
            else:
                self._lost += 1

    def flush(self, seconds: float) -> None:
        """Wait until everything is written or lost, or for ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unwritten, seconds)

    def _append(self, line: str, lines: int) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        self._unwritten.append((data, lines))
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unwritten)
                data, lines = self._unwritten[0]
            is_written = self._write(data)
            with self._changed:
                self._unwritten.popleft()
                if not is_written:
                    self._lost += lines
                elif self._lost:
                    self._append(_LOST % self._lost, self._lost)
                    self._lost = 0
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        # Not by way of sys.stderr: its lock would be held as long as nobody reads, also at the end.
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return False
        return True


class OutputHandler(logging.Handler):
    """Hands the log's lines to an output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record."""
        self._output.say(self.format(record))
