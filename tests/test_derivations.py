"""The page of derivations: its quotations of the code, its citations and its errata."""

from __future__ import annotations

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest
from pages import sections, tables

from xrnn import cells

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "xrnn" / "guide" / "derivations.md"

pytestmark = pytest.mark.skipif(
    not (ROOT / "xrnn" / "cells").is_dir(), reason="the sources do not lie beside the tests"
)

#: `file`: `code`, as the page quotes a line
REFERENCE = re.compile(r"`([\w/]+\.py)`: `([^`]+)`")

#: the titles of the five derivations
TITLES = (
    "Input-gated LSTM",
    "Tanh RNN",
    "LSTM",
    "ReLU RNN, LSTM and GRU",
    "Handwritten tanh RNN",
)

#: one equation, section or line of a derivation, or a range of them
ITEM = r"\(\d+\)(?:-\(\d+\))?|eq\.\d+|13-\d|\d+\.\d+|l\.\d+(?:-\d+)?|[A-Z]+\d+[a-z]?"
CITATION = rf'"({"|".join(TITLES)})" ((?:{ITEM})(?:, (?:{ITEM}))*)'
COLUMNS = ("stated in", "chain written out", "with δ")


def numbers(*ranges: tuple[int, int]) -> set[str]:
    """(6), (7) …"""
    return {f"({n})" for first, last in ranges for n in range(first, last + 1)}


def labels(text: str) -> set[str]:
    """S1, S2 … out of ``S1-3``; a letter at the end goes the same way."""
    found = set()
    for head, first, last in re.findall(r"(\S*?)(\d+|[a-z])-(\d+|[a-z])(?= |$)", text):
        if first.isdigit():
            found |= {f"{head}{n}" for n in range(int(first), int(last) + 1)}
        else:
            found |= {f"{head}{chr(n)}" for n in range(ord(first), ord(last) + 1)}
    return found


#: what the derivations number or what the page labels; "Input-gated LSTM" has lines only
EXISTING = {
    "Tanh RNN": numbers((1, 17))
    | labels("S1-6 S7a-c LG1-2 LD1-10 V1-4 C1-3 W1-7 W8a-d U8a-d B8a-d E1-7 E8a-e"),
    "LSTM": labels("eq.1-12 3.1-10") | {f"13-{n}" for n in range(1, 6)},
    "ReLU RNN, LSTM and GRU": numbers((1, 87)),
    "Handwritten tanh RNN": labels("F1-4 G1-1 N1-2 C1-3 H1-5 B1-4 V1-3 W1-4 U1-4"),
}
LAST_LINE = 369

#: the numbered equations that are gradients
GRADIENTS = {
    "Tanh RNN": numbers((6, 17)),
    "LSTM": labels("3.1-10") | {f"13-{n}" for n in range(1, 6)},
    "ReLU RNN, LSTM and GRU": numbers((4, 9), (12, 57), (62, 87)),
}

#: every equation that is wrong, misprinted or ambiguous as printed
FAULTS = {
    "Input-gated LSTM": {
        "wrong": {f"l.{n}" for n in (30, 32, 36, 40, 44, 50, 98, 130, 244, 268, 302, 304, 308)},
        "typo": {f"l.{n}" for n in (8, 16, 18, 22, 26, 122, 264, "132-140", "144-152", "158-168")}
        | {f"l.{n}" for n in ("174-182", "184-192", "198-206", "214-222", "230-238", "272-280")}
        | {f"l.{n}" for n in ("286-294", "316-324", "332-340", "348-356")},
        "ambiguous": {f"l.{n}" for n in (126, 300, 306, 312)},
    },
    "Tanh RNN": {
        "wrong": {"S6", "LG2", "(6)", "(11)", "(13)", "(15)", "(17)"}
        | labels("S7a-c LD5-10 W8a-b U8a-b B8a-b E8a-b"),
        "typo": {"V4", "W6t", "E6t", "E4", "W8d", "U8d", "B8d"},
        "ambiguous": {"(1)", "E1", "(5)", "W7", "(10)", "(12)", "(14)", "E7", "(16)"}
        | {"W8c", "U8c", "B8c", "E8c", "E8d", "E8e"},
    },
    "LSTM": {
        "wrong": {"3.1"},
        "typo": {"3.2", "3.5", "3.7", "3.8", "3.9"},
        "ambiguous": {"3.2", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9", "3.10"},
    },
    "ReLU RNN, LSTM and GRU": {
        "wrong": numbers((6, 9), (12, 12), (22, 24), (31, 31), (35, 36), (43, 45), (66, 73))
        | numbers((76, 76), (86, 87))
        | {"R21", "R87"},
        "typo": numbers((18, 19), (21, 21), (34, 34), (63, 65), (72, 72), (85, 85)),
        "ambiguous": numbers((31, 34), (43, 54)),
    },
    "Handwritten tanh RNN": {
        "wrong": {"H3", "V1"},
        "typo": {"F2", "F3", "V2"},
        "ambiguous": {"N2"},
    },
}


@cache
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@cache
def lines_of(path: Path) -> list[tuple[str, str]]:
    """(code, trailing comment) of each line."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
    found = []
    for n, line in enumerate(text.splitlines(), start=1):
        comment = comments.get(n)
        code = line if comment is None else line[: comment.start[1]]
        found.append((code.strip(), "" if comment is None else comment.string))
    return found


def stated() -> list[str]:
    """The table cells that cite a derivation."""
    return [
        row[header.index(column)]
        for header, rows in tables(page())
        for column in COLUMNS
        if column in header
        for row in rows
    ]


def spread(item: str) -> set[str]:
    """(43)-(54) as its numbers; anything else is one item."""
    ends = re.fullmatch(r"\((\d+)\)-\((\d+)\)", item)
    return {item} if ends is None else numbers((int(ends[1]), int(ends[2])))


def cited() -> dict[str, set[str]]:
    """Title → what is cited of that derivation."""
    found: dict[str, set[str]] = {title: set() for title in TITLES}
    for cell in stated():
        for title, items in re.findall(CITATION, cell):
            for item in items.split(", "):
                found[title] |= spread(item)
    return found


def test_every_quoted_line_stands_in_its_file() -> None:
    quotes = REFERENCE.findall(page())
    stale = []
    for name, code in quotes:
        path = ROOT / "xrnn" / name
        if not path.is_file() or code not in {line for line, _ in lines_of(path)}:
            stale.append(f"{name}: {code}")
    assert stale == []
    assert len(quotes) == len(re.findall(r"`[\w/]+\.py`", page())), "a file without its line"


def derived() -> dict[str, str]:
    """Name of a cell → its section.  A cell may do without one."""
    title = re.compile(r": `([^`]+)`$")
    return {
        found[1]: text
        for heading, text in sections(page()).items()
        if (found := title.search(heading))
    }


def file_of(name: str) -> str:
    """The file of a cell, as the page names it."""
    module = cells.BY_NAME[name].step.__module__  # type: ignore[attr-defined]
    return f"cells/{module.rpartition('.')[2]}.py"


def test_every_section_of_a_cell_quotes_its_file() -> None:
    assert derived()
    for name, text in derived().items():
        assert file_of(name) in {file for file, _ in REFERENCE.findall(text)}, name


def test_every_numbered_line_of_a_derived_cell_is_quoted() -> None:
    quotes = set(REFERENCE.findall(page()))
    for file in map(file_of, derived()):
        lines = lines_of(ROOT / "xrnn" / file)
        numbered = {
            (file, code) for code, comment in lines if code and re.match(r"# \(\d", comment)
        }
        assert numbered
        assert sorted(numbered - quotes) == []


def test_every_row_has_the_cells_of_its_header() -> None:
    odd = [row for header, rows in tables(page()) for row in rows if len(row) != len(header)]
    assert odd == []


def test_citations_have_one_form() -> None:
    form = re.compile(rf"—|{CITATION}(?:; {CITATION})*")
    assert [cell for cell in stated() if not form.fullmatch(cell)] == []


def test_only_what_is_in_a_derivation_is_cited() -> None:
    found = cited()
    for title, existing in EXISTING.items():
        assert found[title] <= existing, title
    for item in found["Input-gated LSTM"]:
        lines = [int(n) for n in re.findall(r"\d+", item)]
        assert lines == sorted(lines), item
        assert 0 < lines[0] <= lines[-1] <= LAST_LINE, item


@pytest.mark.parametrize("title", GRADIENTS)
def test_every_numbered_gradient_equation_is_on_the_page(title: str) -> None:
    assert sorted(GRADIENTS[title] - cited()[title]) == []


@pytest.mark.parametrize("title", FAULTS)
def test_every_fault_is_in_the_errata(title: str) -> None:
    named: dict[str, set[str]] = {"wrong": set(), "typo": set(), "ambiguous": set()}
    for header, rows in tables(sections(page(), "###")[f'Errata of "{title}"']):
        assert header == ["equation", "as printed", "correct", "reason"]
        for equations, *_, reason in rows:
            verdict = re.match(r"\*\*(\w+)\*\*", reason)
            assert verdict is not None, equations
            for item in equations.split(", "):
                named[verdict[1]] |= spread(item)
    assert named == FAULTS[title]


def test_the_five_derivations_are_introduced_by_title() -> None:
    head = page()[: page().index("## Contents")]
    assert re.findall(r'^- \*\*"(.+)"\*\*', head, flags=re.MULTILINE) == list(TITLES)
