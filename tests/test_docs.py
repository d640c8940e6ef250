"""The documents lead somewhere: links, paths and the list of rooms are those of the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_layering import ROOMS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/**/*.md")])
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]*)\)", text):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def test_paths_in_the_architecture_exist():
    paths = re.findall(r"`((?:ext4img|tests|tools|docs)/[\w./-]*)`", ARCHITECTURE)
    assert len(paths) > 60
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert len(re.findall(r"(?m)^\| .* \| `(?:ext4img|tools)/", ARCHITECTURE)) >= 40


def test_tests_that_documents_name_exist():
    text = (ROOT / "docs/how-it-is-checked.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:tests|tools)/[\w./-]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"`(test_\w+\*?)`", text)
    assert names
    assert not [
        name for name in names if f"def {name.removesuffix('*')}{'' if name.endswith('*') else '('}" not in code
    ]


def test_the_rooms_of_the_architecture_are_those_of_the_layering_test():
    """In the same order, which is that of the imports; and each is in the picture, but for one small module."""
    assert re.findall(r"(?m)^\| `(\w+)` \|", ARCHITECTURE) == list(ROOMS)
    picture = ARCHITECTURE.partition("```text\n")[2].partition("```")[0]
    assert set(ROOMS) - set(re.findall(r"\w+", picture)) == {"worth_importing_numpy"}
