"""Words the shell offers, down to bash, which splits `key=value` into three words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import candidates
from orchestrator.cli.main import main


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a config group and an option of its own."""
    (tmp_path / "conf/optimizer").mkdir(parents=True)
    (tmp_path / "conf/optimizer/mine.yaml").write_text("lr: 1\n")
    (tmp_path / "conf/head").mkdir()
    (tmp_path / "conf/head/big.yaml").write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("incomplete", "expected"),
    [
        ("opt", ["optimizer=", "optimizer."]),
        ("~opt", ["~optimizer", "~optimizer."]),
        ("optimizer.l", ["optimizer.lr="]),
        ("++optimizer.l", ["++optimizer.lr="]),
        ("optimizer=adamw", ["optimizer=adamw"]),
        ("optimizer.name=s", ["optimizer.name=sgd"]),
        ("job.compile=", ["job.compile=true", "job.compile=false"]),
        ("job.early", ["job.early_stopping."]),
        ("micro", ["micro_batch="]),
        ("nonsense=", []),
    ],
)
def test_words(incomplete: str, expected: list[str]) -> None:
    assert candidates.complete(incomplete) == expected


def test_options_of_the_project_come_too(project: Path) -> None:
    assert {"optimizer=mine", "optimizer=adamw"} <= set(candidates.complete("optimizer="))
    assert candidates.complete("head") == ["head="]


def test_runs_are_offered(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("runs/digits-1", "elsewhere/digits-2"):
        (project / run).mkdir(parents=True)
        (project / run / "run.json").write_text("{}")
    monkeypatch.setenv("_ORCHESTRATOR_COMPLETE", "bash_complete")
    for line, expected in (
        ("orchestrator runs show ", ["plain,last", "plain,digits-1"]),
        ("orchestrator runs --storage elsewhere show d", ["plain,digits-2"]),
        ("orchestrator resume --storage elsewhere d", ["plain,digits-2"]),
        ("orchestrator resume --storage nowhere ", []),
    ):
        monkeypatch.setenv("COMP_LINE", line)
        with pytest.raises(SystemExit):
            main([])
        assert capsys.readouterr().out.split() == expected


BASH = """
eval "$({python} -m orchestrator.cli.main completion bash)"
orchestrator() {{ {python} -m orchestrator.cli.main "$@"; }}
env() {{ command env "${{@:1:$#-1}}" {python} -m orchestrator.cli.main; }}
compopt() {{ :; }}
COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
_orchestrator_completion orchestrator
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("orchestrator pl", "plan"),
        ("orchestrator plan job=digits optimizer=sg", "sgd"),
        ("orchestrator plan optimizer.l", "optimizer.lr="),
        ("orchestrator plan --cfg h", "hydra"),
    ],
)
def test_in_bash(line: str, offered: str) -> None:
    script = BASH.format(python=sys.executable, line=line)
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (offered, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_cover_both_names(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_ORCHESTRATOR_COMPLETE" in script
    assert "_ORCH_COMPLETE" in script
