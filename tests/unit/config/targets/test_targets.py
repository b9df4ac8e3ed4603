"""Targets: only exact exports run, and nothing runs before everything is right."""

from __future__ import annotations

import importlib
import sys
from enum import Enum
from typing import Any, Literal

import pytest

from orchestrator.config.load import load
from orchestrator.config.targets import exports, targets
from orchestrator.config.targets.arguments import At, check
from orchestrator.errors import ConfigError, TargetError

CODE = """
    from __future__ import annotations
    import os
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        from nowhere import Unknown

    CALLS = []

    class Net:
        def __init__(self, width: int, act: Unknown = None, rate: float = 0.5, name: str = "net"):
            CALLS.append("Net")
            self.width, self.act, self.rate = width, act, rate

        @classmethod
        def small(cls, width: int = 1):
            return cls(width)

    class Wider(Net):
        pass

    class Act:
        def __init__(self, slope: float = 0.1):
            CALLS.append("Act")
            self.slope = slope

    class Fit:
        def __init__(self, model, data):
            self.model, self.data = model, data

        def loss(self, model, batch):
            return 0

    def rows(split: str, seed: int = 0):
        CALLS.append("rows")
        return [split, seed]

    def unsplit(seed: int = 0):
        return []

    def hidden():
        raise AssertionError("this must never run")
"""
EXPORTS = frozenset(f"mine.code:{name}" for name in ("Net", "Net.small", "Act", "Fit", "rows", "unsplit"))


@pytest.fixture
def code(project):
    """A package of the person's own."""
    project.write("mine/__init__.py", "from mine.code import Net, hidden\nfrom mine import code as alias\n")
    project.write("mine/code.py", CODE)
    return project


def tree(model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, task: str = "mine.code:Fit") -> Any:
    return {
        "job": {"task": task},
        "model": {"_target_": "mine.code:Net", "width": 3} if model is None else model,
        "data": {"_target_": "mine.code:rows"} if data is None else data,
    }


def bind(spec: Any) -> targets.Bound:
    return targets.bind(spec, EXPORTS)


def calls() -> list[str]:
    return importlib.import_module("mine.code").CALLS


def test_bound(code) -> None:
    bound = bind(tree(data={"_target_": "mine.code.rows", "seed": 4}))
    assert calls() == []
    task = bound.task()
    assert calls() == []
    assert (task.model().width, task.data("val")) == (3, ["val", 4])
    assert bound.model() is not bound.model()
    assert bound.task_class.__name__ == "Fit"


def test_nested_targets_are_built_anew(code) -> None:
    bound = bind(tree(model={"_target_": "mine:Net", "width": 3, "act": [{"_target_": "mine.code:Act", "slope": 1}]}))
    first, second = bound.model(), bound.model()
    assert first.act[0].slope == 1.0
    assert first.act[0] is not second.act[0]
    assert first.act is not second.act


@pytest.mark.parametrize(
    "text", ["mine:Net", "mine.Net", "mine.code.Net", "mine:code.Net", "mine.alias.Net", "mine.code:Net.small"]
)
def test_other_names_of_exports(code, text: str) -> None:
    assert bind(tree(model={"_target_": text, "width": 3})).model().width == 3


@pytest.mark.parametrize(
    "text",
    [
        "os:system",
        "os.system",
        "mine.code:hidden",
        "mine:hidden",
        "mine.code.os.system",
        "mine:code.os.getcwd",
        "builtins:eval",
        "torch.nn.functional.torch.hub.load",
        "torch.nn:functional.torch.hub.load",
        "torch.optim.adam.torch.serialization.os.getcwd",
        "orchestrator.jobs.regression:subprocess.run",
        "mine.code:Net.__init__",
        "mine.code:Net.__class__",
        "mine.code:Wider",
    ],
)
@pytest.mark.parametrize("place", ["model", "data", "nested", "task", "elsewhere"])
def test_leaks_are_refused_without_an_import(project, text: str, place: str) -> None:
    spec = tree()
    if place == "task":
        spec["job"]["task"] = text
    elif place == "nested":
        spec["model"]["act"] = [{"deep": {"_target_": text}}]
    elif place == "elsewhere":
        spec["strategy"] = {"deepspeed": {"_target_": text}}
    else:
        spec[place]["_target_"] = text
    with pytest.raises(TargetError, match="is not an allowed target"):
        targets.check(spec, exports.BUILT_IN | EXPORTS)
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # inherited: it would make a Wider
        ("mine.code:Wider.small", "model._target_=mine.code:Wider.small is not an allowed target."),
        # something else under an exported name
        ("mine:fake.Net", "model._target_=mine:fake.Net resolves to posix:system, which is not an allowed target."),
        # something else that says it is the export
        ("mine:copy.Net", "model._target_=mine:copy.Net resolves to mine.code:Net, which is not an allowed target."),
        # not a module or a class
        ("mine:value.Net", "model._target_=mine:value.Net is not an allowed target."),
    ],
)
def test_leaks_are_refused_by_identity(code, text: str, message: str) -> None:
    code.write(
        "mine/__init__.py",
        """
        import os
        from mine import code
        class fake: Net = os.system
        class copy:
            class Net: pass
        copy.Net.__module__, copy.Net.__qualname__ = "mine.code", "Net"
        value = {"Net": 1}
        """,
    )
    with pytest.raises(TargetError) as caught:
        bind(tree(model={"_target_": text}))
    assert caught.value.message == message


def test_one_bad_target_keeps_all_from_running(code) -> None:
    spec = tree(model={"_target_": "mine.code:Net", "width": 3, "act": {"_target_": "mine.code:Act"}})
    spec["data"]["_target_"] = "mine.code:hidden"
    with pytest.raises(TargetError):
        bind(spec)
    assert "mine.code" not in sys.modules
    spec["data"] = {"_target_": "mine.code:rows", "seed": "x"}
    with pytest.raises(TargetError):
        bind(spec)
    assert calls() == []


ARGUMENTS = [
    ("model", {"_target_": "mine.code:Net", "width": 3, "rat": 1}, "model.rat is not an argument of mine.code:Net (in here). Nearest: rate, act."),
    ("model", {"_target_": "mine.code:Net"}, "model.width is not set, and mine.code:Net needs it (in here). Set it: +model.width=..."),
    ("model", {"_target_": "mine.code:Net", "width": "abc"}, "model.width=abc is not a whole number (in here)."),
    ("model", {"_target_": "mine.code:Net", "width": True}, "model.width=true is not a whole number (in here)."),
    ("model", {"_target_": "mine.code:Net", "width": 3, "name": None}, "model.name=null is not text (in here). Set it: model.name=..."),
    ("model", {"_target_": "mine.code:Net", "width": 3, "act": {"_target_": "mine.code:Act", "slop": 1}}, "model.act.slop is not an argument of mine.code:Act (in here). Did you mean 'slope'?"),
    ("data", {"_target_": "mine.code:rows", "split": "val"}, "data.split is set by the run itself (in here). Leave it out."),
    ("data", {"_target_": "mine.code:unsplit"}, "data._target_=mine.code:unsplit has no parameter 'split' (in here). Give it one: def unsplit(split: str, ...)."),
    ("model", {"_target_": "mine.code:Net", "width": 3, "_args_": [1]}, "model._args_ is not supported (in here). Beside _target_, write the callable's arguments by name."),
    ("model", {}, "model._target_ is not set (in here). Choose an option (model=...), or set model._target_=module:Name."),
    ("job", {"task": "mine.code:Net"}, "job.task=mine.code:Net is not a Task (in here). A Task is a class with a method loss(model, batch): see orchestrator.task."),
]  # fmt: skip


@pytest.mark.parametrize(("group", "node", "message"), ARGUMENTS)
def test_arguments(code, group: str, node: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.bind({**tree(), group: node}, EXPORTS, where=lambda key: " (in here)")
    assert str(caught.value) == message
    assert calls() == [] if "mine.code" in sys.modules else True


class Colour(Enum):
    red = "r"


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (float, 1, 1.0),
        (float | None, None, None),
        (int | str, "a", "a"),
        (float | int, 1, 1),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Literal["a", 1], 1, 1),
        (Colour, "red", Colour.red),
        (Colour, "r", Colour.red),
        (object, "x", "x"),
        (complex, "not understood, not checked", "not understood, not checked"),
        ("list[int]", [1], [1]),
        ("Unheard", 3, 3),
    ],
)
def test_annotations_that_fit(annotation: Any, value: Any, result: Any) -> None:
    checked = check(annotated(annotation), {"x": value}, AT)
    assert checked == {"x": result}
    assert type(checked["x"]) is type(result)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (int, 1.0, "a whole number"),
        (float, True, "a number"),
        (bool, 1, "true or false"),
        (int | None, "a", "a whole number or null"),
        (list[int], ["a"], "a list (whole number each)"),
        (list[int], 3, "a list (whole number each)"),
        (tuple[int, int], [1], "a list (whole number each)"),
        (dict[str, int], [1], "a mapping (key: value)"),
        (Literal["a", 1], True, "one of a, 1"),
        (Colour, "blue", "one of red"),
    ],
)
def test_annotations_that_do_not_fit(annotation: Any, value: Any, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        check(annotated(annotation), {"x": value}, AT)
    assert caught.value.message.endswith(f" is not {words}.")


AT = At("model", "a:B", targets.nowhere)


def annotated(annotation: Any) -> Any:
    def function(x): ...

    function.__annotations__ = {"x": annotation}
    return function


# --- imports ---------------------------------------------------------------------------------------------------------


def failing(project, text: str) -> str:
    project.write("own/broken.py", text)
    with pytest.raises(TargetError) as caught:
        targets.bind(tree(model={"_target_": "own.broken:Net"}, task="own.broken:Net"), EXPORTS | {"own.broken:Net"})
    return str(caught.value)


def test_module_that_is_not_there(project) -> None:
    with pytest.raises(TargetError) as caught:
        bind(tree())
    assert str(caught.value) == (
        "job.task=mine.code:Fit: there is no module mine. "
        f"Start the command in the folder of your project (now: {project.path}), or install the package."
    )


def test_dependency_that_is_not_there(project) -> None:
    assert failing(project, "import absent_package.part\n") == (
        "job.task=own.broken:Net: own.broken needs absent_package, which is not installed. "
        "Install it: pip install absent_package"
    )


def test_dependency_of_an_extra_that_is_not_there(project, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert failing(project, "import sklearn\n").endswith(
        "needs sklearn, which is not installed. Install it: pip install 'orchestrator[jobs]'"
    )


def test_module_that_raises(project) -> None:
    assert failing(project, "x = 1\nraise ValueError('no\\nluck')\n") == (
        "job.task=own.broken:Net: importing own.broken fails with ValueError: no luck. Raised at own/broken.py:2."
    )


def test_module_with_a_syntax_error(project) -> None:
    assert failing(project, "x = 1\nx = = 2\n") == (
        "job.task=own.broken:Net: importing own.broken fails with SyntaxError: invalid syntax (broken.py, line 2). "
        "Raised at own/broken.py:2."
    )


def test_name_that_is_not_there(project) -> None:
    assert failing(project, "class Nett: pass\n") == (
        "job.task=own.broken:Net: own.broken has no Net. Did you mean 'Nett'?"
    )


@pytest.mark.parametrize("package", [True, False], ids=["a package", "a folder"])
def test_jobs_is_a_name_that_projects_may_use(project, monkeypatch, package) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "jobs"]:
        monkeypatch.delitem(sys.modules, name)
    if package:
        project.write("jobs/__init__.py", "")
    project.write("jobs/images.py", "class Net: pass\n")
    bound = targets.bind(load([]).resolved)
    assert bound.task_class.__module__ == "orchestrator.jobs.image_classification"
    assert importlib.import_module("jobs.images").Net.__module__ == "jobs.images"


# --- exports ---------------------------------------------------------------------------------------------------------


def test_a_project_extends_the_exports(code) -> None:
    override = ["job.task=mine.code:Fit", "model._target_=mine.code:Net", "data._target_=mine.code:rows"]
    with pytest.raises(TargetError, match=r"job\.task=mine\.code:Fit is not an allowed target"):
        load(override)
    code.write(
        "pyproject.toml", '[tool.orchestrator]\nexports = ["mine.code:Fit", "mine.code:Net", "mine.code:rows"]\n'
    )
    assert load(override).spec.job.task == "mine.code:Fit"
    assert exports.allowed() == exports.BUILT_IN | {"mine.code:Fit", "mine.code:Net", "mine.code:rows"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool", "pyproject.toml is not valid TOML: "),
        ("[tool]\norchestrator = 3\n", "tool.orchestrator in pyproject.toml is not a table. Write it as"),
        ("[tool.orchestrator]\nexport = []\n", "tool.orchestrator.export in pyproject.toml is not a setting. Did you mean 'exports'?"),
        ("[tool.orchestrator]\nexports = 'a:B'\n", "tool.orchestrator.exports in pyproject.toml is not a list. Write it as"),
        ("[tool.orchestrator]\nexports = ['a.B']\n", "tool.orchestrator.exports in pyproject.toml has 'a.B': not module:Name."),
        ("[tool.orchestrator]\nexports = ['a:*']\n", "tool.orchestrator.exports in pyproject.toml has 'a:*': not module:Name."),
    ],
)  # fmt: skip
def test_malformed_project_files(project, text: str, message: str) -> None:
    project.write("pyproject.toml", text)
    with pytest.raises(ConfigError) as caught:
        exports.allowed()
    assert str(caught.value).startswith(message)


def test_every_shipped_target_is_an_export() -> None:
    for option in ("digits", "diabetes"):
        targets.check(load([f"job={option}"]).resolved, exports.BUILT_IN)
