"""Lines for a descriptor that nobody reads: nobody waits, and what is lost is counted."""

import os
from collections.abc import Iterator

import pytest

from pratima_iscsi.edges.output import Output
from pratima_iscsi.limits import OUTPUT_LINES_MAX

SECONDS = 60.0
LONG = "x" * 4000
"""So many fill a pipe that more than OUTPUT_LINES_MAX of them are never in it."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def lines(reading: int) -> Iterator[str]:
    with open(reading, encoding="utf-8", closefd=False) as file:
        for line in file:
            yield line.removesuffix("\n")


def test_nobody_waits_for_a_reader_and_every_line_is_read_or_counted(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    output = Output(writing)
    count = 3 * OUTPUT_LINES_MAX
    for number in range(count):
        output.say(f"{number} {LONG}")
    read, lost = 0, 0
    said = lines(reading)
    while read + lost < count:
        number, _, what = next(said).partition(" ")
        if what == LONG:
            assert int(number) == read + lost, "in their order, and what is missing in its place"
            read += 1
        else:
            lost += int(what.rpartition(" ")[2])
    assert read + lost == count and read >= OUTPUT_LINES_MAX and lost
    output.say("and on")
    assert next(said) == "and on"


def test_waiting_for_the_last_lines_has_an_end(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    output = Output(writing)
    for number in range(OUTPUT_LINES_MAX):
        output.say(f"{number} {LONG}")
    output.flush(0.01)
    for line in lines(reading):
        if line == f"{OUTPUT_LINES_MAX - 1} {LONG}":
            break
    output.say("the last one")
    output.flush(SECONDS)
    os.set_blocking(reading, False)
    assert os.read(reading, 99) == b"the last one\n"


def test_lines_that_cannot_be_written_are_counted_once_one_can(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    broken, changing = os.pipe()
    os.close(broken)
    output = Output(changing)
    output.say("one")
    output.say("two \udcff")
    output.flush(SECONDS)
    os.dup2(writing, changing)
    output.say("three \udcff")
    output.flush(SECONDS)
    os.close(changing)
    said = os.read(reading, 999).decode().splitlines()
    assert said[0] == "three \\udcff"
    assert len(said) == 2 and said[1].endswith(" 2")
