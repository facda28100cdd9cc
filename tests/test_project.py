"""The files around the code: versions, extras, and what a release says of itself."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pages import sections, tables

import xrnn

ROOT = Path(__file__).parent.parent
FORGE = ROOT / ".github"

pytestmark = pytest.mark.skipif(not FORGE.is_dir(), reason="no checkout and no sdist")


def _project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _citation() -> dict[str, str]:
    """The keys of the citation file that stand in one line."""
    text = (FORGE / "CITATION.cff").read_text("utf-8")
    return dict(re.findall(r'^([\w-]+): "?([^"\n>]+)"?$', text, re.MULTILINE))


def _releases() -> dict[str, str]:
    """Version → date, newest first, as the changelog has them."""
    headings = sections((FORGE / "CHANGELOG.md").read_text("utf-8"))
    released = [re.fullmatch(r"\[([\d.]+)\] - ([\d-]+)", h) for h in headings if "Unrel" not in h]
    return {match[1]: match[2] for match in released if match}


def test_changelog_and_citation_name_the_version_and_its_date() -> None:
    versions = list(_releases())
    assert versions[0] == xrnn._version.__version__ == _citation()["version"]
    assert _releases()[versions[0]] == _citation()["date-released"]


def test_the_changelog_has_every_version_once_and_in_order() -> None:
    headings = list(sections((FORGE / "CHANGELOG.md").read_text("utf-8")))
    assert headings[0] == "[Unreleased]"
    releases = _releases()
    assert len(releases) == len(headings) - 1
    versions = [tuple(map(int, v.split("."))) for v in releases]
    assert versions == sorted(versions, reverse=True)
    days = list(map(date.fromisoformat, releases.values()))
    assert days == sorted(days, reverse=True)


def test_the_changelog_has_the_kinds_of_change_of_its_form() -> None:
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(sections((FORGE / "CHANGELOG.md").read_text("utf-8"), "###")) <= kinds


def test_the_citation_has_what_its_format_demands() -> None:
    text = (FORGE / "CITATION.cff").read_text("utf-8")
    keys = set(re.findall(r"^([\w-]+):", text, re.MULTILINE))
    assert keys >= {"cff-version", "message", "title", "authors"}
    assert _citation()["license"] == _project()["license"]
    assert re.findall(r"^  - name: (.*)$", text, re.MULTILINE) == [
        author["name"] for author in _project()["authors"]
    ]
    assert f"Copyright (c) 2026 {_project()['authors'][0]['name']}" in (ROOT / "LICENSE").read_text(
        "utf-8"
    )


def test_the_readme_lists_every_extra() -> None:
    rows = [
        row[0]
        for header, rows in tables((ROOT / "README.md").read_text("utf-8"))
        if header[0] == "extra"
        for row in rows
    ]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(_project()["optional-dependencies"])


def test_the_extra_all_names_extras() -> None:
    extras = _project()["optional-dependencies"]
    (names,) = re.findall(r"\[(.*)\]", extras["all"][0])
    assert set(names.split(",")) <= set(extras)


@pytest.mark.parametrize("page", sorted(FORGE.glob("*.md")), ids=lambda page: str(page.name))
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in backquotes, but for those of cells and backends that a reader would add."""
    named = re.findall(
        r"`((?:xrnn|backends|tests|benchmarks|\.ci)/[\w./-]*)`", page.read_text("utf-8")
    )
    added = {"xrnn/cells/yours.py", "backends/strict/__init__.py"}
    missing = [path for path in {*named} - added if not (ROOT / path).exists()]
    assert missing == []
