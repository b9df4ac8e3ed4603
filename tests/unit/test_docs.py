"""What the documents say of the code is so: links, verbs, groups and files exist, and docs/config.md is up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from orchestrator.cli.main import VERBS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(document: str) -> str:
    """What stands in backticks and may be a command: words, and blocks that are not Python."""
    blocks = [block for block in FENCED.findall(document) if not block.startswith("```python")]
    return "\n".join([*blocks, *INLINE.findall(FENCED.sub("", document))])


def anchors(document: str) -> set[str]:
    """Where links into a document can point, as GitHub names headings."""
    headings = HEADING.findall(FENCED.sub("", document))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(FENCED.sub("", document.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), f"{link} is not there"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_exist(document: Path) -> None:
    named = re.findall(r"\borch(?:estrator)? ([a-z][a-z-]*)\b", commands(document.read_text(encoding="utf-8")))
    assert set(named) <= set(VERBS)


def test_readme_names_every_verb() -> None:
    named = re.findall(r"\borchestrator ([a-z]+)\b", commands(text("README.md")))
    assert set(VERBS) <= set(named)


def test_readme_names_every_config_group_and_option_of_experiments() -> None:
    words = set(INLINE.findall(FENCED.sub("", text("README.md"))))
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    experiments = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    assert groups | experiments <= words


def test_files_named_in_the_architecture_exist() -> None:
    named = [word for word in INLINE.findall(text("ARCHITECTURE.md")) if re.fullmatch(r"[\w./-]+\.(py|md|yaml)", word)]
    assert len(named) > 10
    assert not [name for name in named if not ((ROOT / name).exists() or (ROOT / "orchestrator" / name).exists())]


def test_architecture_names_every_room() -> None:
    """A folder right below the package by its name in the table; one below that in the line of its room."""
    lines = {line.split("`")[1]: line for line in text("ARCHITECTURE.md").splitlines() if line.startswith("| `")}
    package = ROOT / "orchestrator"
    folders = [path.parent.relative_to(package) for path in package.rglob("__init__.py") if path.parent != package]
    missing = [
        str(folder)
        for folder in folders
        if folder.name != "jobs" and f"`{folder.name}/`" not in lines.get(f"{folder.parts[0]}/", "")
    ]
    assert not missing, "give them a place in the table of rooms"


def test_architecture_fits_on_two_pages() -> None:
    assert len(text("ARCHITECTURE.md").splitlines()) <= 120


def test_layers_are_those_that_the_test_holds() -> None:
    from test_layers import LAYERS

    order = " < ".join(", ".join(sorted(layer)) for layer in LAYERS)
    for document in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        (found,) = re.findall(r"^    (errors < .+?)\n\n", text(document), re.MULTILINE | re.DOTALL)
        assert " ".join(found.split()) == order, document


def test_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= 150


def test_config_reference_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "docs/generate.py"))["render"]
    assert text("docs/config.md") == render(), "run: .venv/bin/python docs/generate.py"


def test_config_reference_has_every_setting() -> None:
    from orchestrator.config.explain.keys import schema_keys

    words = set(INLINE.findall(text("docs/config.md")))
    leaves = [key for key in schema_keys() if not any(other.startswith(f"{key}.") for other in schema_keys())]
    missing = sorted(set(leaves) - words)
    assert not missing
