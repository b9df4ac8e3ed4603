"""Folders of other formats: every command refuses them in one sentence, and listings go on without them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import paths
from orchestrator.cli.main import main
from orchestrator.errors import FormatError
from orchestrator.foundation import formats
from orchestrator.foundation.formats import FORMAT
from orchestrator.models import pyfunc
from orchestrator.plans.types import Plan
from orchestrator.sweeps import record as sweeps
from tests.unit.records.stories import make_run, submit
from tests.unit.sweeps.report.test_report import record_of

OLDER, NEWER = FORMAT - 1, FORMAT + 1
FOUND = {
    None: "no format number, written by an older version",
    OLDER: f"format {OLDER}, written by an older version",
    NEWER: f"format {NEWER}, written by a newer version",
}
FILES = {"run": paths.RECORD, "job": paths.JOB, "sweep": sweeps.SWEEP}
COMMANDS = [
    *(
        ("run", command)
        for command in (
            "runs show NAME",
            "runs compare NAME NAME",
            "runs sync NAME",
            "jobs show NAME",
            "logs NAME",
            "attach NAME",
            "why NAME",
            "stop NAME",
            "resume NAME",
            "rerun NAME",
            "export NAME",
            "evaluate NAME",
        )
    ),
    *(("job", command) for command in ("jobs show NAME", "logs NAME", "why NAME", "stop NAME", "rerun NAME")),
    *(("sweep", f"sweep {command} NAME") for command in ("show", "best", "resume", "stop")),
]
LISTINGS = {"run": "runs", "job": "jobs", "sweep": "sweep list"}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "far"


def write(kind: str, storage: Path, name: str) -> Path:
    """A run, job or sweep as this version writes it; the file that carries its format."""
    if kind == "run":
        make_run(storage, name)
    elif kind == "job":
        submit(storage, name)
    else:
        kept = record_of(name=name, root=f"{storage}/{name}")
        kept.store.write(sweeps.SWEEP, json.dumps(dataclasses.asdict(kept)))
    return storage / name / FILES[kind]


def change_format(file: Path, number: int | None) -> None:
    data: dict[str, Any] = json.loads(file.read_text())
    assert data.pop("format") == FORMAT
    file.write_text(json.dumps(data if number is None else {**data, "format": number}))


@pytest.mark.parametrize("number", FOUND)
@pytest.mark.parametrize(("kind", "command"), COMMANDS)
def test_commands_refuse_other_formats(
    kind: str, command: str, number: int | None, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_format(write(kind, storage, "demo-1"), number)
    code = main([*command.replace("NAME", "demo-1").split(), "--storage", str(storage)])
    first, hint = capsys.readouterr().err.splitlines()
    assert first == f"error: The {kind} in {storage}/demo-1 has {FOUND[number]}; this version reads format {FORMAT}."
    assert hint == ("Use the version of orchestrator that wrote it." if number == NEWER else formats.AGAIN[kind])
    assert code == 2


@pytest.mark.parametrize(("kind", "listing"), LISTINGS.items())
def test_listings_go_on_and_mention_other_formats_once(
    kind: str, listing: str, storage: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, number in (("old-1", None), ("old-2", OLDER), ("old-3", NEWER), ("new-1", FORMAT)):
        change_format(write(kind, storage, name), number)
    assert main([*listing.split(), "--storage", str(storage)]) == 0
    shown = capsys.readouterr().out
    assert "new-1" in shown
    assert "old-" not in shown
    (mentioned,) = caplog.messages
    assert mentioned == (
        f"Left out: The {kind} in {storage}/old-1 has {FOUND[None]}; this version reads format {FORMAT}. "
        "2 more of other formats are left out too."
    )


def test_the_newest_is_the_newest_that_can_be_read(storage: Path) -> None:
    change_format(write("sweep", storage, "old"), OLDER)
    write("sweep", storage, "new")
    assert sweeps.load(str(storage), "last").name == "new"


@pytest.mark.parametrize("number", FOUND)
def test_models_and_plans_of_other_formats_are_refused(number: int | None, storage: Path) -> None:
    record = make_run(storage)
    plan = Path(record.root, paths.PLAN)
    folder = Path(record.root, paths.MODEL)
    folder.mkdir()
    (folder / pyfunc.DESCRIPTION).write_text(json.dumps({"format": FORMAT, "spec": {}}))
    change_format(folder / pyfunc.DESCRIPTION, number)
    with pytest.raises(FormatError) as caught:
        pyfunc.describe(folder)
    assert caught.value.message == f"The model in {folder} has {FOUND[number]}; this version reads format {FORMAT}."
    if number is not None:  # a plan without a format is no plan
        change_format(plan, number)
        with pytest.raises(FormatError) as caught:
            Plan.from_json(plan.read_text(), str(plan))
        assert caught.value.message == f"The plan in {plan} has {FOUND[number]}; this version reads format {FORMAT}."
    assert caught.value.exit_code == 2
