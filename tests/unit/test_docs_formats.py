"""docs/formats.md says what the code does: layouts, kinds, messages, limits, and its example."""

import importlib
import re
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from pratima_iscsi import limits, records
from pratima_iscsi.control import events
from pratima_iscsi.edges import journal
from pratima_iscsi.operations import COUNTED, RecordKind
from pratima_iscsi.records import make_record
from pratima_iscsi.replication import messages, wire
from pratima_iscsi.replication.states import LinkState, Mode
from tests.support.frames import frame_of

DOCS = Path(__file__).parents[2] / "docs"
FORMATS = (DOCS / "formats.md").read_text(encoding="utf-8")
TERMS = (DOCS / "terms.md").read_text(encoding="utf-8")

TYPES = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "q": "i64"}
HEADINGS = {"#" * level for level in range(1, 7)}
DOCUMENTED: tuple[ModuleType, ...] = (records, wire, journal)


def table_after(mark: str) -> list[list[str]]:
    """The rows of the first table after ``mark``, its head left out."""
    assert FORMATS.count(mark) == 1, f"{mark} stands {FORMATS.count(mark)} times on the page"
    rows: list[list[str]] = []
    for line in FORMATS.split(mark)[1].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def fields_of(layout: struct.Struct) -> list[tuple[int, str]]:
    """Offset and type of each field of a layout, padding included."""
    order, codes = layout.format[0], layout.format[1:]
    assert order == ">", "a format is big-endian"
    fields, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", codes):
        size = struct.calcsize(f">{count}{code}")
        if code in "sx":
            fields.append((offset, f"{'bytes' if code == 's' else 'pad'} {size}"))
        else:
            assert not count, "one field a row"
            fields.append((offset, TYPES[code]))
        offset += size
    assert offset == layout.size
    return fields


def structs_of(module: ModuleType) -> dict[str, struct.Struct]:
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if isinstance(value, struct.Struct)
    }


def own_structs() -> set[str]:
    """The layouts of the documented modules, each under the module that defines it."""
    found: dict[int, str] = {}
    for module in DOCUMENTED:
        for name, layout in structs_of(module).items():
            found.setdefault(id(layout), name)
    return set(found.values())


LAYOUTS = re.findall(r"<!-- layout: (\S+) -->", FORMATS)


def test_every_layout_of_frames_and_journal_is_on_the_page() -> None:
    assert set(LAYOUTS) == own_structs()


@pytest.mark.parametrize("path", LAYOUTS)
def test_a_layouts_table_has_its_fields_offsets_and_types(path: str) -> None:
    module, _, name = path.rpartition(".")
    layout = getattr(importlib.import_module(module), name)
    table = table_after(f"<!-- layout: {path} -->")
    assert [(int(offset), kind) for offset, kind, _ in table] == fields_of(layout)


def test_the_kinds_are_the_codes() -> None:
    table = table_after("### Kinds\n")
    assert {kind: int(number) for kind, number, *_ in table} == {
        k.name: k.value for k in RecordKind
    }
    for name, _, counted, payload, _ in table:
        kind = RecordKind[name]
        assert (counted == "yes") == (kind in COUNTED)
        assert (payload == "none") == (kind in wire._WITHOUT_PAYLOAD)
        assert (payload == "data") == (kind in wire._WITH_DATA)
        assert (payload == "layout") == (f"### Payload of {name}\n" in FORMATS)


def test_the_flags_are_the_codes() -> None:
    table = table_after("| 64 | u64 | generation of the first record |\n\n")
    assert {name.strip("`"): int(value) for name, value, _ in table} == {
        "COMMIT_NOW": wire.COMMIT_NOW,
        "ACK_NOW": wire.ACK_NOW,
    }


def test_limits_and_constants_are_the_codes() -> None:
    for mark in ("one beyond the limit closes its connection.\n", "and sees so by `number`.\n"):
        for name, value in table_after(mark):
            assert getattr(limits, name.strip("`")) == float(value)
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)`", FORMATS):
        assert hasattr(limits, name) or hasattr(wire, name), name
    head, entry = wire.HEADER.size, records.ENTRY.size
    assert f"header ({head}) | entry 0 … entry n-1 ({entry} each)" in FORMATS
    assert f"magic, `{wire.MAGIC.decode()}`" in FORMATS
    assert f"magic, `{journal._SEGMENT_MAGIC.decode()}`" in FORMATS
    assert f"magic, `{journal._UNIT_MAGIC.decode()}`" in FORMATS
    assert (wire.VERSION, wire.PROTOCOL_VERSION, journal._VERSION) == (1, 1, 1)
    assert (journal.ALIGNMENT, records.HISTORY_BYTES, records.VERIFY_DIGEST_BYTES) == (512, 16, 16)


MESSAGES: list[type[messages.Message]] = list(messages.Message.__subclasses__())


def test_every_message_is_on_the_page() -> None:
    documented = re.findall(r"<!-- message: (\w+) -->\n\*\*`([a-z-]+)`\*\*", FORMATS)
    assert documented == [(m.__name__, m.__struct_config__.tag) for m in _in_page_order()]


def _in_page_order() -> list[type[messages.Message]]:
    return sorted(MESSAGES, key=lambda m: FORMATS.index(f"<!-- message: {m.__name__} -->"))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.__name__)
def test_a_messages_table_has_its_fields_in_order(message: type[messages.Message]) -> None:
    table = table_after(f"<!-- message: {message.__name__} -->")
    fields = msgspec.structs.fields(message)
    assert [(name, meaning.startswith("optional")) for name, _, meaning in table] == [
        (field.encode_name, not field.required) for field in fields
    ]
    assert [kind for _, kind, _ in table] == [_type_of(field.type) for field in fields]


EVENTS: list[type[events.Event]] = [events.Event, *events.Event.__subclasses__()]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_an_events_table_has_its_own_fields_in_order(event: type[events.Event]) -> None:
    inherited = {field.name for base in event.__bases__ for field in _fields_of(base)}
    own = [field.name for field in _fields_of(event) if field.name not in inherited]
    mark = f"<!-- event: {event.__name__} -->"
    assert FORMATS.count(mark) == 1
    name = event.__struct_config__.tag
    if event is not events.Event:
        assert FORMATS.split(mark)[1].startswith(f"\n**`{name}`**")
    assert not own or [row[0] for row in table_after(mark)] == own


def _fields_of(kind: type) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind) if issubclass(kind, events.Event) else ()


def _type_of(annotation: Any) -> str:
    named = {
        messages.Id: "id",
        messages.Name: "name",
        messages.Text: "text",
        messages.Number: "number",
        messages.Sequence: "sequence",
        messages.Ancestry: "ancestry",
        int: "integer",
        bool: "boolean",
    }
    for known, word in named.items():
        if annotation == known:
            return word
    assert "tuple" in str(annotation), annotation
    return "list"


def test_the_example_is_what_the_code_makes() -> None:
    record = make_record(RecordKind.ZERO, volume=1, offset=4096, length=8192, sequence=42)
    frame = frame_of(wire.BatchHeader(b"g" * 16, b"s" * 16, 7, 5, 3), [record])
    block = FORMATS.split("<!-- example: frame -->\n```\n")[1].split("```")[0]
    shown = bytes.fromhex(block)
    assert shown == frame
    assert wire.decode_batch(memoryview(shown)).last_n == 5


def test_links_on_the_pages_lead_somewhere() -> None:
    for page in (FORMATS, TERMS):
        anchors = {
            re.sub(r"[^a-z0-9 -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            for line in page.splitlines()
            if line.split(" ")[0] in HEADINGS
        }
        for anchor in re.findall(r"\]\(#([^)]+)\)", page):
            assert anchor in anchors
        for target in re.findall(r"\]\(([a-z.-]+\.md)", page):
            assert (DOCS / target).exists(), target


def test_terms_are_sorted_and_said_once() -> None:
    seen: set[str] = set()
    for section in TERMS.split("\n## ")[1:]:
        terms = re.findall(r"^\*\*(.+?)\*\*", section, flags=re.MULTILINE)
        assert terms == sorted(terms, key=str.lower), f"not sorted under {section.splitlines()[0]}"
        assert len(terms) > 3
        assert not seen & set(terms)
        seen |= set(terms)


def test_every_state_that_status_shows_is_a_term() -> None:
    for word in (*(state.value for state in LinkState), *(mode.value for mode in Mode)):
        assert re.search(rf"^\*\*{word}\*\*", TERMS, flags=re.MULTILINE), word
