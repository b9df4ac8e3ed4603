"""On the head, a command for a project that was sent: `python -m orchestrator.cli.incoming FOLDER DIGEST WORDS...`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from orchestrator import paths
from orchestrator.cli import main as cli
from orchestrator.errors import OrchestratorError


def main(folder: str, digest: str, *words: str) -> int:
    """On the head: submit what has come in. Paths are meant from the account's home."""
    come = Path.home() / folder
    given = [
        str(come / word) if before == "--plan" else word for before, word in zip(("", *words), words, strict=False)
    ]
    os.chdir(Path.home())
    try:
        _take(come / f"{digest}.zip")
        return cli.main(given)
    except OrchestratorError as error:
        print(f"error: {error.message}\n{error.hint}".rstrip(), file=sys.stderr)
        return error.exit_code
    finally:
        shutil.rmtree(come, ignore_errors=True)


def _take(packed: Path) -> None:
    """Make what has come in the project of this process."""
    from orchestrator.project import unpack

    target = unpack.cache() / "projects" / packed.stem
    unpack.made_once(target, lambda folder: unpack.unpack(packed, folder))
    os.environ |= {paths.PROJECT: str(target), paths.PACKED: str(packed)}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
