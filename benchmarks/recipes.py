"""Trains the recipes of docs/recipes.md on real data, and writes down what they reach; can be interrupted.

make recipes DATA=~/data
.venv/bin/python -m benchmarks.recipes ~/data diamonds keywords
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.foundation.storage import write_atomically

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"
DOCUMENT = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- recipes -->", "<!-- end of recipes -->"
LIMIT_S = 30 * 60
WORKERS = "cluster.workers=2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One training and what it must reach."""

    name: str
    what: str
    data: str
    """A file or folder of the data folder."""
    settings: tuple[str, ...]
    metric: str
    bar: float
    higher: bool = True

    def command(self, data: Path) -> list[str]:
        """What to type."""
        return ["orchestrator", "train", *self.settings, f"data.path={data / self.data}", WORKERS]

    def reached(self, value: float) -> bool:
        """Whether it is good enough."""
        return value >= self.bar if self.higher else value <= self.bar


RECIPES = (
    Recipe(
        name="diamonds",
        what="price of diamonds, 10 % held out at random: R2",
        data="diamonds.csv",
        settings=("job=table", "data.target=price"),
        metric="test/r2",
        bar=0.975,
    ),
    Recipe(
        name="keywords",
        what="spoken digits, takes 0-4 held out: accuracy",
        data="spoken_digits",
        settings=("job=keywords", "data.test_names='*_[0-4].wav'", "data.rate=8000"),
        metric="test/accuracy",
        bar=0.97,
    ),
    Recipe(
        name="sentences",
        what="SST-2, test: accuracy",
        data="sst2",
        settings=("job=sentences", "data.columns=[text,label]"),
        metric="test/accuracy",
        bar=0.79,
    ),
    Recipe(
        name="language",
        what="Tiny Shakespeare, characters, last 10 %: nats",
        data="tiny_shakespeare.txt",
        settings=("job=language", "data.tokens=characters", "model.vocabulary=68"),
        metric="val/loss",
        bar=1.80,
        higher=False,
    ),
    Recipe(
        name="photos",
        what="CIFAR-10, 4,000 photos, test: accuracy",
        data="cifar10_small",
        settings=("job=photos", "model.classes=10"),
        metric="test/accuracy",
        bar=0.55,
    ),
    Recipe(
        name="digit_strings",
        what="3 to 5 spoken digits, takes 0-4 held out: word error rate",
        data="spoken_digits",
        settings=("job=digit_strings", "data.test_names='*_[0-4].wav'"),
        metric="test/word_error_rate",
        bar=0.05,
        higher=False,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Those without a result yet, or those that are named, are run; then the table is written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the data")
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(recipe.name for recipe in RECIPES)}")
    arguments = parser.parse_args(argv)
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    chosen = [recipe for recipe in RECIPES if recipe.name in (arguments.names or {recipe.name})]
    for recipe in chosen:
        if arguments.names or recipe.name not in results:
            results[recipe.name] = carry_out(recipe, arguments.data.expanduser().absolute())
            RESULTS.parent.mkdir(exist_ok=True)
            write_atomically(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
            print(f"{recipe.name}: {results[recipe.name]}", flush=True)
    write_table(results)
    missed = [recipe.name for recipe in chosen if not recipe.reached(results[recipe.name]["value"])]
    if missed:
        print(f"below what is wanted: {', '.join(missed)}", file=sys.stderr)
    return len(missed)


def carry_out(recipe: Recipe, data: Path) -> dict[str, Any]:
    """One recipe, as a person would train it."""
    command = recipe.command(data)
    command[0] = str(Path(sys.executable).parent / command[0])
    with tempfile.TemporaryDirectory(prefix="orchestrator-recipe-") as scratch:
        done = subprocess.run(
            [*command, "--json"], stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, cwd=scratch, check=False
        )
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}")
    summary = json.loads(done.stdout)
    return {
        "value": summary["metrics"][recipe.metric],
        "steps": summary["steps"],
        "minutes": round(summary["seconds"] / 60, 1),
    }


def write_table(results: dict[str, dict[str, Any]]) -> None:
    """The table in the document."""
    lines = ["| what | wanted | reached | minutes | command |", "| --- | --- | --- | --- | --- |"]
    for recipe in RECIPES:
        known = results.get(recipe.name)
        reached, minutes = (f"{known['value']:.4g}", known["minutes"]) if known else ("not run yet", "")
        wanted = f"{'>=' if recipe.higher else '<='} {recipe.bar:g}"
        command = " ".join(map(_quoted, recipe.command(Path("data"))))
        lines.append(f"| {recipe.what} | {wanted} | {reached} | {minutes} | `{command}` |")
    head, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}")


def _quoted(word: str) -> str:
    return f'"{word}"' if "'" in word else shlex.quote(word)


if __name__ == "__main__":
    sys.exit(main())
