"""Fill in the templates for a package name, and put the project in place as a whole or not at all."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
import tempfile
from pathlib import Path

from orchestrator import paths
from orchestrator.errors import ConfigError, MachineError

TEMPLATES = Path(__file__).parent / "files"
SUFFIX = ".template"
"""Keeps linters, test runners and import systems from taking templates for code."""
PLACEHOLDER = "PACKAGE"
DOTTED = {"gitignore": ".gitignore"}
"""Files that are stored without their dot, so that they do not act on our own checkout."""
RESERVED = frozenset({"orchestrator", "conf", "test", "tests", "runs", "outputs", "docs", "site", "src"})
"""Names that this or other projects use for folders of their own."""


def package_name(wanted: str) -> str:
    """A name that Python can import and nobody has, from what the person wrote."""
    name = re.sub(r"[\s.-]+", "_", wanted.strip()).strip("_").lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(
            f"{wanted!r} cannot be made into a package name: only a-z, 0-9 and '_' will do.",
            "Choose one with --name.",
        )
    taken = _taken(name)
    if taken:
        raise ConfigError(f"The package cannot be named {name!r}: {taken}.", "Choose another name with --name.")
    return name


def render(name: str) -> dict[str, str]:
    """Every file of the project, by its path."""
    files = {}
    for template in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        relative = template.relative_to(TEMPLATES).as_posix().removesuffix(SUFFIX).replace(PLACEHOLDER, name)
        text = template.read_text(encoding="utf-8").replace(PLACEHOLDER, name)
        files[DOTTED.get(relative, relative)] = text
    return files


def create(target: Path, name: str) -> list[str]:
    """Write the project into `target`, which must be empty (but for .git) or not there; returns its files."""
    _refuse_occupied(target)
    files = render(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
            draft = Path(beside) / target.name
            for relative, text in files.items():
                _write(draft / relative, text)
            _put_in_place(draft, target)
    except OSError as error:
        raise MachineError(
            f"{target} cannot be written: {error.strerror}.", "Choose a folder you can write."
        ) from error
    return list(files)


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename the draft. A folder that is there is kept, since it may be the one a shell stands in."""
    if not target.exists():
        draft.replace(target)
        return
    for entry in sorted(draft.iterdir()):
        entry.replace(target / entry.name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _refuse_occupied(target: Path) -> None:
    if target.is_dir():
        found = sorted(entry.name for entry in target.iterdir() if entry.name != ".git")
        if found:
            some = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise ConfigError(f"{target} is not empty: it has {some}.", "Name a new folder, or empty this one.")
    elif target.exists():
        raise ConfigError(f"{target} is a file.", "Name a new folder.")


def _taken(name: str) -> str:
    """Who has the name already; empty when nobody has."""
    if keyword.iskeyword(name) or name in sys.stdlib_module_names:
        return "it belongs to Python"
    if name in RESERVED:
        return "it is used for something else here"
    if any((paths.shipped_conf() / group / f"{name}.yaml").is_file() for group in ("job", "model", "data")):
        return f"its config would hide the shipped one (job={name})"
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:  # without origin: a folder that merely lies on the path
        return f"there is a module of that name ({spec.origin})"
    return ""
