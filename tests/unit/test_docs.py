"""The documents say what is so: layers, rules, keys, example files, tests and links by name."""

import ast
import configparser
import re
from pathlib import Path

import pytest

import pratima_iscsi
from pratima_iscsi.cli import COMMANDS
from pratima_iscsi.control import config, sections
from pratima_iscsi.edges.keys import allow_line, write_keys
from pratima_iscsi.replication.handshake import RULES
from pratima_iscsi.replication.states import LinkState, Mode

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "tests" / "README.md", *(ROOT / "docs").glob("*.md")])
PACKAGE = Path(pratima_iscsi.__file__).parent
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fence_after(text: str, mark: str) -> list[str]:
    """The lines of the first code block after ``mark``."""
    assert text.count(mark) == 1, f"{mark} stands {text.count(mark)} times"
    return text.split(mark)[1].split("```")[1].splitlines()[1:]


def table_after(text: str, mark: str) -> list[list[str]]:
    """The rows of the first table after ``mark``, its head left out."""
    assert text.count(mark) == 1, f"{mark} stands {text.count(mark)} times"
    rows: list[list[str]] = []
    for line in text.split(mark)[1].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    assert len(rows) > 2
    return rows[2:]


# --- names that must exist -----------------------------------------------------------------------


def named_tests(text: str) -> set[tuple[str, str]]:
    spans = (span for span in CODE_SPAN.findall(text) if "::" in span)
    return {(path, name) for path, _, name in (span.partition("::") for span in spans)}


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_every_guarantee_names_tests_that_exist() -> None:
    sections = re.split(r"^## ", read("docs/guarantees.md"), flags=re.MULTILINE)[1:]
    by_name = {section.split("\n", 1)[0]: section for section in sections}
    wanted = {f"I{number}" for number in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)} | {"Modes"}
    assert wanted <= by_name.keys()
    for name in sorted(wanted):
        named = named_tests(by_name[name])
        assert named, f"{name} names no test"
        for path, test in sorted(named):
            assert (ROOT / path).is_file(), f"{name}: no file {path}"
            assert test in functions_of(ROOT / path), f"{name}: no test {test} in {path}"


def anchors_of(path: Path) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = (line.lstrip("#").strip().lower() for line in lines if re.match(r"#+ ", line))
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors_of(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for span in CODE_SPAN.findall(text):
        path = span.split("::")[0].split()[0]
        if re.fullmatch(r"(tests|tools|docs|pratima_iscsi)/[\w/.-]+", path):
            assert (ROOT / path).exists(), span
        elif re.fullmatch(r"[\w/]+\.py", path):
            assert any((place / path).exists() for place in (PACKAGE, page.parent, ROOT)), span
    for command in re.findall(r"^pratima (\w+)|`pratima (\w+)", text, flags=re.MULTILINE):
        name = command[0] or command[1]
        assert name in (*COMMANDS, "COMMAND"), f"pratima {name}"


# --- docs/architecture.md ------------------------------------------------------------------------


def modules_exist(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def test_the_picture_of_the_layers_is_the_contract() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    contract = setup["importlinter:contract:layers"]["layers"].split("\n")
    wanted = [re.sub(r"[()]", "", line).strip() for line in contract if line.strip()]
    drawn = [
        re.split(r"\s{3,}", line)[0]
        for line in fence_after(read("docs/architecture.md"), "<!-- layers -->")
    ]
    assert [re.sub(r"[()]", "", line) for line in drawn] == wanted
    for name in re.findall(r"\(?\w+\)?", " ".join(drawn)):
        bare = name.strip("()")
        assert name.startswith("(") is not modules_exist(bare), f"{name}: brackets mean not there"


# --- docs/operations.md --------------------------------------------------------------------------


def test_every_state_has_its_row() -> None:
    rows = table_after(read("docs/operations.md"), "2 | somebody must act, or nobody answers |")
    assert {row[0] for row in rows} == {state.value for state in LinkState}


def test_every_handshake_rule_has_its_row_in_their_order() -> None:
    rows = table_after(read("docs/operations.md"), "<!-- rules:")
    assert [row[0].strip("`") for row in rows] == [rule.name for rule in RULES]


def test_every_refusal_of_a_replica_has_its_row() -> None:
    """The names are read off the one function that gives them."""
    source = read("pratima_iscsi/replication/sink.py")
    (refusal,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "_refusal"
    )
    names = {
        node.value.elts[0].value
        for node in ast.walk(refusal)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Tuple)
        and isinstance(node.value.elts[0], ast.Constant)
    }
    assert len(names) > 3
    rows = table_after(read("docs/operations.md"), "None of them clears a table.")
    assert {row[0].strip("`") for row in rows} == names


def test_every_mode_is_told() -> None:
    for name in ("docs/operations.md", "docs/guarantees.md"):
        for mode in Mode:
            assert f"`{mode.value}`" in read(name)


SECTIONS = {
    "serve": sections.ServeFile,
    "`[portal]`": sections.PortalSection,
    "`[[group]]`": sections.ServeGroupSection,
    "`[[group.volume]]`": sections.VolumeSection,
    "`[[group.replica]]`": sections.ReplicaSection,
    "replica": sections.ReplicaFile,
    "replica's `[[group]]`": sections.ReplicaGroupSection,
}


def test_every_key_of_the_configuration_is_told() -> None:
    told: dict[str, list[str]] = {}
    for section, keys, *_ in table_after(read("docs/operations.md"), "<!-- keys:"):
        told.setdefault(section, []).extend(CODE_SPAN.findall(keys))
    assert told.keys() == SECTIONS.keys()
    for section, keys in told.items():
        assert sorted(keys) == sorted(SECTIONS[section].__struct_fields__), section


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A directory with the files that the examples name."""
    write_keys(tmp_path / "node.key")
    peers = []
    for name in ("10.0.0.2:7010", "10.9.0.2:7010"):
        keys = write_keys(tmp_path / name)
        peers.append(allow_line(keys.public, name))
    (tmp_path / "allow").write_text("".join(peers))
    (tmp_path / "chap").touch(0o600)
    (tmp_path / "chap").write_text("correct horse battery\n")
    return tmp_path


def example(directory: Path, name: str) -> Path:
    path = directory / name
    path.write_text("\n".join(fence_after(read("docs/operations.md"), f"<!-- {name}:")))
    return path


def test_the_example_of_serve_is_taken(secrets: Path) -> None:
    file = config.read_file(example(secrets, "serve.toml"), sections.ServeFile)
    options = config.serve_options(file, secrets)
    assert [group.name for group in options.groups] == ["db", "scratch"]
    assert [len(group.volumes) for group in options.groups] == [2, 1]
    near, far = options.groups[0].replicas
    assert (near.mode, near.block, far.mode) == (Mode.SYNC, True, Mode.ASYNC)
    assert near.peer_key != far.peer_key
    assert options.account is not None


def test_the_example_of_replica_is_taken(secrets: Path) -> None:
    file = config.read_file(example(secrets, "replica.toml"), sections.ReplicaFile)
    options = config.replica_options(file, secrets)
    assert [len(group.volumes) for group in options.groups] == [2]
    assert len(options.allowed) == 2


# --- README.md -----------------------------------------------------------------------------------


def test_the_readme_names_every_guarantee() -> None:
    named = set(re.findall(r"docs/guarantees\.md#(\w+)", read("README.md")))
    headings = anchors_of(ROOT / "docs" / "guarantees.md")
    assert {head for head in headings if re.fullmatch(r"i\d+|modes", head)} == named


def test_every_directory_of_tests_has_its_row() -> None:
    told = set(re.findall(r"^\| `(\w+)/` \|", read("tests/README.md"), flags=re.MULTILINE))
    there = {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))
    }
    assert told == there
