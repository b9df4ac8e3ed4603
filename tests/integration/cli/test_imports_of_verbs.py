"""Which packages of others `plan` and `train` load: no more than those listed in golden/, since each costs start-up time.

Fewer are fine; pytest tests/integration/cli --update-golden then shortens the lists. They hold for the versions that
constraints.txt pins. Nothing is replaced: both commands run as users run them, in a process of their own with an empty
cache, `plan` to its end and `train` to the moment at which it starts the process of its launcher.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden")
TIMEOUT_S = 240
RUN = "probe"

# Audit hooks see every process before it starts. Once the run's folder exists, the first process that runs our Python is
# the launcher's; others come before it, such as `uname`, which a library starts. The exit is at once, so that nothing
# starts and nothing is cleaned up that would import more.
PROBE = f"""
import os, sys
from pathlib import Path


def write() -> None:
    Path("modules.txt").write_text("\\n".join(sorted(sys.modules)))


def before_launch(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen" and arguments[0] == sys.executable and Path("runs/{RUN}").is_dir():
        write()
        Path("launched").touch()
        os._exit(0)


sys.addaudithook(before_launch)
from orchestrator.cli.main import main

code = main(sys.argv[1:])
write()
sys.exit(code)
"""

OURS = frozenset(("orchestrator", "hydra_plugins", "jobs", "__main__", "__mp_main__"))
TOOLS = frozenset(("_pytest", "coverage", "distutils-precedence", "pytest", "sitecustomize", "usercustomize", "xdist"))
"""What the environment of a test run may add to any process."""
BUILT = re.compile(r"_editable_|__editable__|_sysconfigdata|_distutils_hack|_virtualenv|_cython_\d|\w+__mypyc$")
"""Finders of editable installs, build data of Python, and modules whose names hold a version or hash of a compiler."""


def third_party(modules: list[str]) -> list[str]:
    """The modules that are neither ours nor Python's."""
    left_out = OURS | TOOLS | sys.stdlib_module_names
    return sorted(name for name in modules if name.partition(".")[0] not in left_out and not BUILT.match(name))


def loaded(folder: Path, *arguments: str) -> list[str]:
    """The modules of others that a command has loaded, in a project folder of its own."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "ORCHESTRATOR_HOME": str(folder / "home"),
        "TMPDIR": str(folder),  # what the launcher leaves behind here is removed with the folder
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return third_party((folder / "modules.txt").read_text(encoding="utf-8").splitlines())


def check(name: str, modules: list[str], *, update: bool) -> None:
    """Compare with the stored list, and name the modules that are new; with `update`, store them."""
    file = GOLDEN / name
    if update:
        file.write_text("\n".join(modules) + "\n", encoding="utf-8")
    new = sorted(set(modules) - set(file.read_text(encoding="utf-8").splitlines()))
    packages = sorted({module.partition(".")[0] for module in new})
    assert new == [], f"{len(new)} modules that golden/{name} does not list, of {', '.join(packages)}: {', '.join(new)}"


def test_plan_loads_nothing_new(tmp_path: Path, update_golden: bool) -> None:
    modules = loaded(tmp_path, "plan", "experiment=demo")
    check("imports-plan.txt", modules, update=update_golden)


def test_train_loads_nothing_new_before_its_workers_start(tmp_path: Path, update_golden: bool) -> None:
    modules = loaded(tmp_path, "train", "experiment=demo", "--id", RUN)
    assert (tmp_path / "launched").exists()
    assert json.loads((tmp_path / "runs" / RUN / "run.json").read_text())["status"] == "running"
    check("imports-train.txt", modules, update=update_golden)


def test_new_modules_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.GOLDEN", tmp_path)
    check("list.txt", ["click", "rich"], update=True)
    check("list.txt", ["click"], update=False)
    with pytest.raises(AssertionError, match=r"1 modules that golden/list.txt does not list, of rich: rich\.live"):
        check(
            "list.txt",
            third_party(["click", "rich.live", "json.tool", "orchestrator.cli", "_virtualenv"]),
            update=False,
        )
