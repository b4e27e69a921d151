"""Whether a ring that was just emptied is looked at for a while, or its owner sleeps at once.

An initiator with one command at a time sends the next soon after an answer. Sleeping meanwhile
makes the pause longer, by what it costs a machine to fall asleep and wake up: microseconds on bare
metal, far more where processors are virtual. Looking makes it no longer, but costs a processor. One
rule: what either costs is seen, not assumed: both kinds of pause are measured, the better is
chosen, and the other one is tried now and then.
"""

from typing import Final

from pratima_iscsi.limits import TCMU_PAUSE_SECONDS_MAX, TCMU_POLL_SECONDS_MAX

WORTH: Final = 4.0
"""So many seconds of a processor are spent at the most to save an initiator one."""
TRY_EVERY: Final = 32
"""One pause of so many is spent in the way that does not seem the better."""
WEIGHT: Final = 0.125
"""Of the last pause in its average."""
LOOKED_SECONDS: Final = 0.00005
SLEPT_SECONDS: Final = 0.00025
"""What pauses are taken to be before there were any: looking seems the better."""


class Polling:
    """The pauses of one ring: from when there is nothing to do until more comes.

    Ask ``patience`` when one begins, and say by ``ended`` how long it was. Times are seconds.
    """

    __slots__ = ("_looked", "_looks", "_pauses", "_slept", "allowed")

    def __init__(self, allowed: bool) -> None:
        """``allowed``: there is another processor for whoever is to send the next command."""
        self.allowed = allowed
        self._looked = LOOKED_SECONDS
        self._slept = SLEPT_SECONDS
        self._pauses = 0
        self._looks = False

    @property
    def worthwhile(self) -> bool:
        """Whether a look costs no more than it is worth."""
        return self._looked <= WORTH * (self._slept - self._looked)

    def patience(self) -> float:
        """A pause begins: how long to look for more before sleeping; 0 when not at all."""
        if not self.allowed:
            return 0.0
        self._pauses += 1
        worthwhile = self.worthwhile
        self._looks = worthwhile != (self._pauses % TRY_EVERY == 0)
        if not self._looks:
            return 0.0
        if not worthwhile:
            return min(self._slept, TCMU_POLL_SECONDS_MAX)  # looking would make it shorter
        return min(2 * self._looked, TCMU_POLL_SECONDS_MAX)

    def ended(self, seconds: float) -> None:
        """The pause was so long, looked through or slept through (or both, when a look was in
        vain: it counts as looked through, which makes looking seem worse)."""
        if self._looks:
            self._looked = _with(self._looked, seconds)
        else:
            self._slept = _with(self._slept, seconds)


def _with(average: float, seconds: float) -> float:
    """A moving average. A pause that is far shorter ends an idle time, and begins it anew."""
    if seconds < average / 2:
        return seconds
    return average + (min(seconds, TCMU_PAUSE_SECONDS_MAX) - average) * WEIGHT
