"""The README as a person follows it: its files are written and its bash blocks run, in order, in one shell.

A bash block is left out only when the line above it says so and why: `<!-- not run: reason -->`. A file is a block of
any other language below a line that is its path: `waves/waves.py`:
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "README.md"
NOT_RUN = re.compile(r"<!-- not run: .+ -->")
FILE = re.compile(r"`(?P<path>[\w./-]+)`:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What stands between two fences."""

    above: str
    """The last line before it that is not empty."""
    language: str
    text: str


def blocks(readme: str) -> Iterator[Block]:
    """All blocks, in order."""
    above, opened, inside = "", "", list[str]()
    for line in readme.splitlines():
        if opened and line == "```":
            yield Block(above=above, language=opened, text="".join(inside))
            above, opened, inside = line, "", []
        elif opened:
            inside.append(f"{line}\n")
        elif line.startswith("```"):
            opened = line.removeprefix("```")
        elif line:
            above = line


def step(block: Block) -> str:
    """The shell commands that a block amounts to; empty when nothing is to be done."""
    file = FILE.fullmatch(block.above)
    if file:
        path = file["path"]
        return f"mkdir -p {Path(path).parent}\ncat > {path} <<'END OF FILE'\n{block.text}END OF FILE\n"
    return block.text if block.language == "bash" and not NOT_RUN.fullmatch(block.above) else ""


def environment() -> dict[str, str]:
    """This one, less what only a developer's shell has; `orchestrator` and `python` are those under test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW", "RAY"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README was followed to its end."""
    folder = tmp_path_factory.mktemp("readme")
    script = "\n".join(["set -euxo pipefail", *map(step, blocks(README.read_text(encoding="utf-8")))])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return folder


def test_every_command_succeeds_and_leaves_its_runs(followed: Path) -> None:
    assert (followed / "runs/first/model/model.safetensors").is_file()
    assert (followed / "spirals/spirals/task.py").is_file()
    (run,) = followed.glob("waves/runs/waves-*")
    assert (run / "model/model.safetensors").is_file()


def test_what_is_not_run_is_marked() -> None:
    shell = [block for block in blocks(README.read_text(encoding="utf-8")) if block.language == "bash"]
    marked = [block for block in shell if not step(block)]
    assert len(shell) - len(marked) >= 2
    assert all("orchestrator " in block.text for block in shell if block not in marked)
    assert not [block for block in shell if re.search(r"^(make|pip)\b", step(block), re.MULTILINE)]
