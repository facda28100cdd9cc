"""The first page, and the pages it leads to: their code runs and their links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from pages import anchors, blocks

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    path
    for pattern in ("README.md", ".github/*.md", "benchmarks/*.md", "xrnn/guide/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydoc_data", reason="this Python comes without its manual")
    monkeypatch.chdir(tmp_path)
    code = blocks(README.read_text("utf-8"))
    assert code
    for block in code:
        exec(compile(block, str(README), "exec"), {})


def targets(text: str) -> set[str]:
    """What the links and pictures of a page lead to."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"\]\(([^)\s]+)\)", text)) | set(
        re.findall(r"^\[[^\]]+\]: (\S+)$", text, flags=re.MULTILINE)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in targets(page.read_text("utf-8")):
        if re.match(r"\w+:", target):
            continue  # another site
        file, _, heading = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        if heading:
            assert heading in anchors(found.read_text("utf-8")), target


def test_every_name_of_a_link_is_defined_and_every_definition_is_used() -> None:
    text = README.read_text("utf-8")
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, flags=re.MULTILINE))
    assert set(re.findall(r"\]\[([^\]]+)\]", text)) == defined


def test_links_become_absolute_for_a_package_index() -> None:
    text = README.read_text("utf-8")
    assert any(not re.match(r"https:|#", target) for target in targets(text))
    absolute = runpy.run_path(str(ROOT / ".ci" / "absolute_links.py"))["absolute"]
    there = targets(absolute(text, "https://example.org/xrnn/blob/v1"))
    assert all(re.match(r"https:|#", target) for target in there)
    assert "https://example.org/xrnn/blob/v1/xrnn/guide/cells.md" in there
