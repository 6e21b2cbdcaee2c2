"""README and docs name what there is: files, pictures and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from train.__main__ import TOOLS
from train.commands import evaluate
from train.stages import STAGES
from wanact.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_FILM_BYTES = 3_000_000  # of one picture or film: whoever opens a page waits for it


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_of_a_document_are_there(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if not (document.parent / target.partition("#")[0]).exists()]
    assert not missing


def test_what_the_readme_shows_is_quick_to_load():
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert "minute" in shown[0], "the newest film comes first"
    assert {name: (ROOT / name).stat().st_size for name in shown if (ROOT / name).stat().st_size > MAX_FILM_BYTES} == {}


def test_every_figure_of_the_readme_has_a_command_that_there_is():
    tables = re.findall(r"(?:^\|.*\n)+", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (figures,) = (table for table in tables if "command" in table.splitlines()[0])
    rows = [row.strip("|\n ").split(" | ") for row in figures.splitlines()[2:]]
    assert len(rows) >= 5
    for *_, command in rows:
        words = shlex.split(command.strip().strip("`"))
        if words == ["the", "same"]:
            continue
        package, name, *arguments = words
        assert name in (COMMANDS if package == "wanact" else TOOLS.keys() | STAGES.keys()), command
        if name == "evaluate":
            assert hasattr(evaluate, arguments[0]), command
        for word in arguments:
            assert "/" not in word or (ROOT / word).exists(), f"{word} is not there"
