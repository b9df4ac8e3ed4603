"""Findings from facts that are made up, and one look at the real machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from orchestrator import paths
from orchestrator.cli.main import main
from orchestrator.cluster.doctor import doctor, probes
from orchestrator.cluster.doctor.doctor import GIB, Finding, Level
from orchestrator.cluster.doctor.probes import Answer

CARD = {"name": "H100", "memory": 80 * GIB, "capability": [9, 0]}


def torch(**facts: Any) -> Answer:
    """What torch says on a machine without GPUs, but for `facts`."""
    usual = {"version": "2.13.0", "built_for_cuda": None, "cuda": False, "gpus": [], "gloo": True, "nccl": None}
    return Answer(facts={**usual, **facts})


BROKEN = Answer(error="ImportError: libcudart.so.12: cannot open shared object file")


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (doctor.python((3, 11)), Level.ok, "3.11"),
        (doctor.python((3, 14)), Level.problem, "3.14"),
        (doctor.torch(torch()), Level.ok, "CPU"),
        (doctor.torch(torch(built_for_cuda="12.8")), Level.ok, "CUDA 12.8"),
        (doctor.torch(BROKEN), Level.problem, "libcudart"),
        (doctor.gpus(torch(), nvidia_driver=False), Level.ok, "none"),
        (doctor.gpus(torch(), nvidia_driver=True), Level.warning, "built for CPU"),
        (doctor.gpus(torch(built_for_cuda="12.8"), nvidia_driver=True), Level.warning, "sees none"),
        (doctor.gpus(torch(gpus=[CARD], built_for_cuda="12.8"), nvidia_driver=True), Level.ok, "H100 (80 GiB)"),
        (doctor.gpus(BROKEN, nvidia_driver=False), Level.warning, "without torch"),
        (doctor.backends(torch()), Level.ok, "gloo: yes"),
        (doctor.backends(torch(gloo=False)), Level.problem, "gloo: no"),
        (doctor.backends(torch(gpus=[CARD])), Level.problem, "NCCL: no"),
        (doctor.backends(torch(gpus=[CARD], nccl=[2, 27, 3])), Level.ok, "NCCL: 2.27.3"),
        (doctor.package("Ray", BROKEN), Level.problem, "cannot be imported"),
        (doctor.mlflow(BROKEN), Level.warning, "cannot be imported"),
        (doctor.memory(GIB), Level.warning, "1.0 GiB"),
        (doctor.memory(8 * GIB), Level.ok, "8.0 GiB"),
        (doctor.shared_memory(Path("/nowhere")), Level.warning, "not there"),
        (doctor.open_files(256), Level.warning, "256"),
        (doctor.open_files(-1), Level.ok, "no limit"),
        (doctor.compiler(None), Level.warning, "none"),
        (doctor.ray_address(None), Level.ok, "not set"),
        (doctor.ray_address("head:6379"), Level.warning, "head:6379"),
        (doctor.hostname("no-such-host.invalid"), Level.warning, "no address"),
        (doctor.versions({}), Level.warning, "not found"),
        (doctor.versions({"ray": "2.60.0"}, {"ray": "2.60.0"}.get), Level.ok, "as in"),
        (doctor.versions({"ray": "2.60.0"}, {"ray": "2.50.0"}.get), Level.warning, "ray 2.50.0 (tested: 2.60.0)"),
        (doctor.storage_writable("/proc/nothing"), Level.problem, "/proc/nothing"),
    ],
)
def test_findings(finding: Finding, level: Level, says: str) -> None:
    assert finding.level is level
    assert says in finding.found
    assert bool(finding.mend) == (level is not Level.ok)


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert doctor.port("p", server.getsockname()[1], "move").level is Level.warning


@pytest.mark.parametrize(("replaceable", "level"), [(True, Level.ok), (False, Level.warning)])
def test_deepspeed_on_cpu_must_not_compile(replaceable: bool, level: Level) -> None:
    facts = {"version": "0.19.8", "accelerator": "cpu", "shm_op_replaceable": replaceable}
    assert doctor.deepspeed(Answer(facts=facts)).level is level


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    assert doctor.storage_writable(str(tmp_path / "a/b")).level is Level.ok
    assert list(tmp_path.iterdir()) == []


def test_project(tmp_path: Path) -> None:
    assert doctor.project(tmp_path).level is Level.ok
    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.orchestrator]\nexports = ["mine.task:Mine"]\n')
    assert "1 export" in doctor.project(tmp_path).found
    file.write_text("[tool.orchestrator\n")
    assert doctor.project(tmp_path).level is Level.problem


def test_the_pins_are_found() -> None:
    assert paths.pins() is not None
    assert "torch" in doctor.pins()


def test_a_broken_package_is_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probes.ask(("mlflow",))["mlflow"] == Answer(error="ImportError: half installed")


@pytest.mark.parametrize(("torch_answer", "code", "verdict"), [(BROKEN, 3, "problem"), (torch(), 0, None)])
def test_exit_code_and_json(
    torch_answer: Answer,
    code: int,
    verdict: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fine = Answer(facts={"version": "1", "accelerator": "cpu", "shm_op_replaceable": True})
    monkeypatch.setattr(probes, "ask", lambda packages: {**dict.fromkeys(packages, fine), "torch": torch_answer})
    assert main(["doctor", "--json", "--storage", str(tmp_path)]) == code
    answer = json.loads(capsys.readouterr().out)
    assert verdict is None or answer["verdict"] == verdict
    assert {finding["name"] for finding in answer["findings"]} >= {"Python", "torch", "Ray", "memory", "project"}
