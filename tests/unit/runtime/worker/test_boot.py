"""What a worker leaves of a failure, and how its log gets to where it cannot lie. Redirection: see the launchers' tests."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator import paths
from orchestrator.errors import StorageError, TargetError
from orchestrator.foundation.storage import RemoteStore, Store, open_store
from orchestrator.runtime.worker.boot import LogCopy, record_failure
from orchestrator.runtime.worker.context import Launch

TASK = """
def loss(act):
    return act()


def bug():
    raise ValueError("token 17 is not in the vocabulary")


def bug_in_a_library():
    import json
    json.loads("{")
"""


def load(path: Path, text: str = TASK) -> ModuleType:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(root: str, project: Path) -> Launch:
    return Launch(run_id="r", attempt=3, root=root, project=str(project), world_size=2, plan={})


def failure_of(act: Callable[[], object], tmp_path: Path, project: Path) -> dict[str, object]:
    with pytest.raises(Exception) as caught:
        act()
    record_failure(launch(str(tmp_path / "run"), project), 1, caught.value)
    data: dict[str, object] = json.loads((tmp_path / "run" / paths.failure(3, 1)).read_text())
    return data


def test_a_failure_names_the_innermost_line_of_the_persons_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load(tmp_path / "project" / "task.py")
    failure = failure_of(lambda: task.loss(task.bug_in_a_library), tmp_path, tmp_path / "project")
    assert failure["where"] == f"{tmp_path}/project/task.py:12"
    assert (failure["rank"], failure["type"]) == (1, "JSONDecodeError")
    assert "bug_in_a_library" in str(failure["traceback"])
    assert isinstance(failure["time"], float)
    assert "JSONDecodeError" in capsys.readouterr().err, "the log has the traceback too"


def test_installed_libraries_inside_the_project_are_not_its_own_code(tmp_path: Path) -> None:
    project = tmp_path / "project"
    task = load(project / "task.py")
    library = load(project / ".venv/lib/site-packages/library.py")
    failure = failure_of(lambda: task.loss(library.bug), tmp_path, project)
    assert failure["where"] == f"{project}/task.py:3"
    assert failure["message"] == "token 17 is not in the vocabulary"


def test_without_own_code_the_innermost_line_is_named(tmp_path: Path) -> None:
    other = load(tmp_path / "elsewhere" / "other.py")
    failure = failure_of(other.bug, tmp_path, tmp_path / "project")
    assert failure["where"] == f"{tmp_path}/elsewhere/other.py:7"


def test_a_folder_whose_name_begins_alike_is_not_the_project(tmp_path: Path) -> None:
    task = load(tmp_path / "project" / "task.py")
    namesake = load(tmp_path / "project-old" / "library.py")
    failure = failure_of(lambda: task.loss(namesake.bug), tmp_path, tmp_path / "project")
    assert failure["where"] == f"{tmp_path}/project/task.py:3"


def test_a_typo_is_placed_where_it_is_and_not_where_the_module_is_imported(tmp_path: Path) -> None:
    project = tmp_path / "project"
    failure = failure_of(lambda: load(project / "broken.py", "x = 1\nif x = 1:\n"), tmp_path, project)
    assert failure["where"] == f"{project}/broken.py:2"
    assert (failure["code"], failure["project"]) == ("if x = 1:", str(project))


def test_what_our_own_errors_were_raised_from_names_the_place(tmp_path: Path) -> None:
    """A worker that cannot import a person's module says so in our words."""
    task = load(tmp_path / "project" / "task.py")

    def bind() -> None:
        try:
            task.bug()
        except ValueError as error:
            raise TargetError("importing task fails") from error

    failure = failure_of(bind, tmp_path, tmp_path / "project")
    assert failure["where"] == f"{tmp_path}/project/task.py:7"
    assert (failure["type"], failure["function"]) == ("TargetError", "bug")
    assert failure["code"] == 'raise ValueError("token 17 is not in the vocabulary")'


def test_an_exception_that_was_never_raised_has_no_place(tmp_path: Path) -> None:
    record_failure(launch(str(tmp_path / "run"), tmp_path), 0, ValueError("made by hand"))
    assert json.loads((tmp_path / "run" / paths.failure(3, 0)).read_text())["where"] == ""


def test_storage_that_fails_hides_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("a file where the run's folder should be")
    record_failure(launch(str(tmp_path / "run"), tmp_path), 0, ValueError("the cause"))
    assert "the cause" in capsys.readouterr().err


class TestLogCopy:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(f"memory://{tmp_path.name}")

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        (tmp_path / "rank-0.log").write_text("")
        return tmp_path / "rank-0.log"

    def test_it_copies_whole_lines_and_at_the_end_the_rest(self, store: Store, log: Path) -> None:
        copy = LogCopy(log, store, "logs/rank-0.log")
        copy.start()
        copy.copy()
        assert store.list("logs") == []
        log.write_text("one\ntw")
        copy.copy()
        copy.copy()
        assert store.tail("logs/rank-0.log") == ("one\n", 1)
        log.write_text("one\ntwo\nthree")
        copy.finish()
        assert store.tail("logs/rank-0.log") == ("one\ntwo\nthree\n", 2)
        times, _ = store.tail(paths.log_times("logs/rank-0.log"))
        assert [line.split()[1] for line in times.splitlines()] == ["1", "2"], "what there was when"
        LogCopy(log, store, "logs/rank-0.log").copy()
        assert store.tail(paths.log_times("logs/rank-0.log"))[0].splitlines()[-1].endswith(" 3"), "of all attempts"

    def test_trouble_with_storage_only_delays_it(
        self, store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = LogCopy(log, store, "logs/rank-0.log")
        log.write_text("one\n")

        def unreachable(*_: object) -> None:
            raise StorageError("no route")

        with monkeypatch.context() as patched:
            patched.setattr(RemoteStore, "append", unreachable)
            copy.copy()
        copy.copy()
        assert store.tail("logs/rank-0.log")[0] == "one\n"
