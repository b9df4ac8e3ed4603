"""Arrows between packages point one way, and heavy libraries are imported late."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "orchestrator"

LAYERS = [
    {"errors"},
    {"paths"},
    {"task"},
    {"foundation"},
    {"config"},
    {"project"},
    {"data"},
    {"plans"},
    {"profile"},
    {"records"},
    {"tracking"},
    {"cluster"},
    {"runtime"},
    {"api", "cli", "models", "planning", "submission", "sweeps"},
    {"jobs"},
]
"""Lowest first; a package may import from its own layer and from those before it."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

HEAVY = {"ray", "torch", "deepspeed", "mlflow", "numpy", "sklearn", "transformers", "hydra", "omegaconf"}
LIGHT_ROOMS = {"errors", "paths", "foundation", "config", "plans", "api", "cli"}
ALLOWED_AT_TOP = {"config": {"hydra", "omegaconf"}}


@functools.cache
def modules() -> dict[str, Path]:
    """All our modules by dotted name."""
    return {_dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(module: str, *, top_only: bool) -> set[str]:
    """Names a module imports when it runs; what stands under TYPE_CHECKING is for readers and type checkers only."""
    return {name for node in _import_nodes(_tree(modules()[module]), top_only) for name in _names(node, module)}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _import_nodes(node: ast.AST, top_only: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from _import_nodes(statement, top_only)
        elif not (top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from _import_nodes(child, top_only)


def _names(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{module}: write imports out in full"
    assert node.module is not None
    known = modules()
    submodules = [f"{node.module}.{alias.name}" for alias in node.names if f"{node.module}.{alias.name}" in known]
    return submodules or [node.module]


def room(module: str) -> str:
    """The package (or top module) of ours that a module lies in; empty for `orchestrator` itself."""
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_its_layer() -> None:
    unknown = {room(module) for module in modules()} - RANK.keys() - {""}
    assert not unknown, f"Give them a place in LAYERS: {sorted(unknown)}"


def test_arrows_point_down() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in modules()
        if room(module)
        for name in imports(module, top_only=False)
        if name.startswith("orchestrator.") and room(name) in RANK and RANK[room(name)] > RANK[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_light_rooms_import_heavy_libraries_late() -> None:
    wrong = [
        f"{module} imports {name} at its top"
        for module in modules()
        if room(module) in LIGHT_ROOMS or not room(module)
        for name in imports(module, top_only=True)
        if name.split(".")[0] in HEAVY - ALLOWED_AT_TOP.get(room(module), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_worker_never_imports_ray() -> None:
    if "orchestrator.runtime.worker.train" not in modules():
        pytest.skip("there is no worker yet")
    seen: set[str] = set()
    todo = ["orchestrator.runtime.worker.train"]
    while todo:
        module = todo.pop()
        if module in seen or module not in modules():
            continue
        seen.add(module)
        everything = imports(module, top_only=False)
        assert not {name for name in everything if name.split(".")[0] == "ray"}, f"{module} imports ray"
        todo.extend(imports(module, top_only=True))


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import orchestrator", HEAVY),
        ("import sys; from orchestrator.cli.main import main; main(['--help'])", HEAVY | {"rich", "yaml"}),
        ("from orchestrator.cli import candidates; candidates.complete('optimizer=')", HEAVY - {"omegaconf"}),
        ("import orchestrator.config.load", HEAVY - {"hydra", "omegaconf"}),
        ("import orchestrator.plans.make", HEAVY - {"omegaconf"}),
        (
            "import orchestrator.runtime.worker.train, orchestrator.jobs.text_classification",
            {"ray", "mlflow", "torchmetrics"},
        ),
    ],
)
def test_loaded_modules(code: str, forbidden: set[str]) -> None:
    report = f"{code}\nimport sys; print(*sorted(set(sys.modules) & {forbidden!r}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == []


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names alone, so a run over both of them would end before its first test."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
