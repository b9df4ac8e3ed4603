"""What a config may name to be run: our own list, and the project's in its pyproject.toml. Nothing else adds to it.

The list has exact names, not prefixes: `_target_` is code that runs, and a prefix admits whatever a package imports.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.config.explain.provenance import shown
from orchestrator.errors import ConfigError, did_you_mean

BUILT_IN = frozenset(
    {
        "orchestrator.jobs.causal_lm:CausalLm",
        "orchestrator.jobs.causal_lm:Gpt",
        "orchestrator.jobs.causal_lm:text",
        "orchestrator.jobs.causal_lm:packed",
        "orchestrator.jobs.causal_lm:Transformer",
        "orchestrator.jobs.image_classification:ImageClassification",
        "orchestrator.jobs.image_classification:SmallResNet",
        "orchestrator.jobs.image_classification:digits",
        "orchestrator.jobs.image_classification:photos",
        "orchestrator.jobs.image_models:ResNet",
        "orchestrator.jobs.image_models:Inception",
        "orchestrator.jobs.image_models:vit",
        "orchestrator.jobs.image_models:convnext",
        *(
            f"orchestrator.jobs.speech_recognition:{name}"
            for name in ("Keywords", "SpeechRecognition", "BeamSearch", "recordings", "digit_strings")
        ),
        *(
            f"orchestrator.jobs.text_classification:{name}"
            for name in ("TextClassification", "BagOfTokens", "Bert", "sentences")
        ),
        *(f"orchestrator.jobs.speech_models:{name}" for name in ("KeywordNet", "CtcNet", "Conformer", "Wav2Vec2")),
        "orchestrator.jobs.regression:Regression",
        "orchestrator.jobs.regression:Mlp",
        "orchestrator.jobs.regression:diabetes",
        "orchestrator.jobs.regression:TableRegression",
        "orchestrator.jobs.regression:MixedMlp",
        "orchestrator.jobs.regression:table",
        *(
            f"torch.nn.modules.activation:{name}"
            for name in ("ELU", "GELU", "LeakyReLU", "ReLU", "SiLU", "Tanh", "Sigmoid")
        ),
        "torch.nn.modules.batchnorm:BatchNorm1d",
        "torch.nn.modules.batchnorm:BatchNorm2d",
        "torch.nn.modules.normalization:GroupNorm",
        "torch.nn.modules.normalization:LayerNorm",
        "torch.nn.modules.linear:Identity",
    }
)
"""`module:Qualname`, by the module that defines it."""

_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_KEYS = ["exports"]
_FORM = 'Write it as [tool.orchestrator] exports = ["pkg.mod:Name"].'


def allowed(project: Path | None = None) -> frozenset[str]:
    """All that may run in this project."""
    return BUILT_IN | of_project(project or paths.project_dir())


def of_project(project: Path) -> frozenset[str]:
    """`exports` in the table [tool.orchestrator] of the project's pyproject.toml."""
    file = project / "pyproject.toml"
    if not file.is_file():
        return frozenset()
    return frozenset(_entries(_table(_parse(file), file), file))


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{shown(file)} is not valid TOML: {error}.", "Correct it.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(file)} cannot be read: {error}.", "It must be UTF-8 text.") from error


def _table(content: dict[str, Any], file: Path) -> dict[str, Any]:
    tool = content.get("tool", {})
    table = tool.get("orchestrator", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"tool.orchestrator in {shown(file)} is not a table.", _FORM)
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"tool.orchestrator.{key} in {shown(file)} is not a setting.", did_you_mean(key, _KEYS))
    return table


def _entries(table: dict[str, Any], file: Path) -> list[str]:
    entries = table.get("exports", [])
    if not isinstance(entries, list):
        raise ConfigError(f"tool.orchestrator.exports in {shown(file)} is not a list.", _FORM)
    for entry in entries:
        if not isinstance(entry, str) or not _ENTRY.fullmatch(entry):
            raise ConfigError(f"tool.orchestrator.exports in {shown(file)} has {entry!r}: not module:Name.", _FORM)
    return entries
