"""The error tree. Four kinds, each with one place that catches it.

    AssertionError          a bug of ours: nowhere caught
    PratimaError
    ├── RemoteProtocolError a peer's fault: closes that session
    ├── CheckCondition      an initiator's fault (scsi.sense): becomes the command's status
    └── OperatorError       an operator's: the CLI prints it with its next step and exits
        ├── UsageError      the request itself is wrong (exit 2)
        └── StateError      the state on disk or of the daemon does not allow it (exit 2)
    OSError
    └── SyncError           of a disk: whoever keeps its data there decides what is lost

What is expected (a silent link, a full log) is an event with a reason and no exception.
"""

from typing import ClassVar


class PratimaError(Exception):
    """Whatever the package raises on purpose."""


class RemoteProtocolError(PratimaError):
    """A peer sent what the protocol does not allow; its session is closed with this reason."""


class OperatorError(PratimaError):
    """Something an operator can mend: what is wrong, and the next step to take."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.problem}; {self.next_step}" if self.next_step else self.problem


class UsageError(OperatorError):
    """The request itself is wrong."""


class StateError(OperatorError):
    """The state on disk, or of a daemon, does not allow the request."""


class SyncError(OSError):
    """A sync failed: whatever was written before it may be lost, and a later success proves
    nothing."""

    @classmethod
    def of(cls, error: OSError) -> "SyncError":
        """The same error, known to be one of a sync."""
        return cls(error.errno, error.strerror, error.filename)


def in_words(error: OSError) -> str:
    """What is wrong, and with which file where the error knows it."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
