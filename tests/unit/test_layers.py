"""The house is in order: arrows point one way, folders are small, names lead somewhere, heavy libraries come late.

The rules themselves are in tests/tools; tests/unit/test_house.py shows that each of them finds what breaks it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import mentions, rules
from tests.tools.graph import House, described_circles

ROOT = Path(__file__).parents[2]

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
    {"planning"},
    {"models"},
    {"sweeps"},
    {"submission"},
    {"api"},
    {"cli"},
    {"jobs"},
]
"""Lowest first; a room may import from its own layer and from those before it, in functions as well.

A room is a file or folder right below the package. Parts of one that have layers of their own (say, in runtime/ or cli/)
are named with a dot, "runtime.worker"; of the names that fit a file, the longest counts.
"""

HEAVY = {"ray", "torch", "deepspeed", "mlflow", "numpy", "sklearn", "transformers", "hydra", "omegaconf"}
LIGHT_ROOMS = {"errors", "paths", "foundation", "config", "project", "plans", "planning", "submission", "api", "cli"}
ALLOWED_AT_TOP = {"config": {"hydra", "omegaconf"}}

WORKER = "orchestrator.runtime.worker.train"
"""The module with the worker's entry. Nothing that importing it loads may import ray: torchrun starts it as well."""

BESIDE = {"orchestrator.jobs": "jobs"}
"""In a checkout the shipped Tasks are beside the package, where readers look for them."""

MOST_FILES = 14
CROWDED = {"cli/verbs"}
"""Folders that may have more files: a list of which each entry has one."""

TAGS = {
    f"orchestrator.{name}"
    for name in (
        # on runs and models in MLflow
        *("attempt", "git_dirty", "plan_digest", "run_id", "version"),
        # on runs of sweeps and trials
        *("best_trial", "error", "scheduler", "search", "smaller_micro_batch", "sources", "state", "sweep", "trial"),
        # on containers
        "content",
    )
}
"""Keys under which others keep something for us: written like modules, but not modules."""
PLANTED = {
    "orchestrator.newer",
    "orchestrator.jobs.image_classification.ImageClasification",
    "orchestrator.jobs.image_classification.small_resnet",
    "orchestrator.jobs.regression.subprocess",
}
"""Named by tests that plant a module in a wheel of its own, or a mistake."""
PLANTED_FILES = {"orchestrator/newer.py", "orchestrator/jobs/regression.py"}
"""Files that are in a wheel only."""


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT, beside=BESIDE)


def none(violations: list[str]) -> None:
    """Fail with what was found, and nothing around it."""
    if violations:
        pytest.fail("\n".join(violations), pytrace=False)


def test_every_module_has_its_room(house: House) -> None:
    none(rules.unplaced(house, LAYERS))


def test_every_room_is_there(house: House) -> None:
    none(rules.absent_rooms(house, LAYERS))


def test_arrows_point_down(house: House) -> None:
    none(rules.upward_arrows(house, LAYERS))


def test_no_circles_between_files(house: House) -> None:
    none(described_circles(house))


def test_folders_can_be_surveyed(house: House) -> None:
    none(rules.crowded_folders(house, MOST_FILES, CROWDED))


def test_modules_named_in_strings_and_documents_exist(house: House) -> None:
    none(mentions.missing_modules(house, TAGS | PLANTED))


def test_files_named_in_strings_and_documents_exist(house: House) -> None:
    none(mentions.missing_files(house, PLANTED_FILES))


def test_names_that_are_no_modules_are_in_use(house: House) -> None:
    assert not (TAGS | PLANTED) - {each.name for each in mentions.named_modules(house)}
    assert not PLANTED_FILES - {each.name for each in mentions.named_files(house)}


def test_light_rooms_import_heavy_libraries_late(house: House) -> None:
    none(rules.heavy_at_top(house, LIGHT_ROOMS, HEAVY, ALLOWED_AT_TOP))


def test_worker_never_imports_ray(house: House) -> None:
    none(rules.imports_of_library(house, WORKER, "ray"))


def test_no_public_name_is_the_name_of_a_package(house: House) -> None:
    assert rules.public_names(house)
    none(rules.hidden_names(house))


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import orchestrator", HEAVY),
        ("import sys; from orchestrator.cli.main import main; main(['--help'])", HEAVY | {"rich", "yaml"}),
        ("from orchestrator.cli import candidates; candidates.complete('optimizer=')", HEAVY - {"omegaconf"}),
        ("import orchestrator.config.load", HEAVY - {"hydra", "omegaconf"}),
        ("import orchestrator.plans.make", HEAVY - {"omegaconf"}),
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
