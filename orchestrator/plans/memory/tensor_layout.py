"""How DeepSpeed 0.19's AutoTP cuts a model's parameters up between the workers of a tensor-parallel group.

Numbers of elements, not bytes. Every rule here is read from DeepSpeed's source, named beside it, and held against it by
tests/integration/plan/test_memory_shared.py.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.plans.memory.profile_types import ModelProfile, Parameter

HEADS = ("lm_head", "embed_out")
EVEN = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""tp_shard.py, `get_shard_size`: layers that are not cut between attention heads."""
WORDS = {
    "colwise": ("column", False),
    "colwise_rep": ("column", True),
    "colwise_gather_output": ("column", True),
    "rowwise": ("row", False),
}
"""tp_plan_converter.py: the words of a `_tp_plan` that cut a layer, and whether its output is made whole again."""
OTHER_WAYS = ("preset_model", "vocab_parallel_lm_head", "tp")
"""Settings of `tensor_parallel` that change what is cut in ways not counted here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How layers of some names are cut."""

    patterns: tuple[str, ...]
    """Regular expressions for the name of a layer's weight."""
    kind: str
    """column: by outputs, with the bias; row: by inputs; skip: not at all."""
    gathers: bool = False
    """Whether every worker gets the whole output."""

    def names(self, weight: str) -> bool:
        """Whether it is about this weight."""
        return any(re.match(pattern, weight) for pattern in self.patterns)


def is_modelled(section: Mapping[str, Any]) -> bool:
    """Whether the rules here are all that a row's `tensor_parallel` section goes by."""
    specs = (section.get("partition_config") or {}).get("layer_specs", ())
    shaped = any(spec.get("shape") or spec.get("model_types") for spec in specs)
    return not shaped and not any(section.get(key) for key in OTHER_WAYS)


def rules(profile: ModelProfile, section: Mapping[str, Any]) -> list[Rule]:
    """The first that names a layer holds: the person's own `partition_config`, or what the model says of itself."""
    own = section.get("partition_config")
    if own:
        return [
            Rule(
                patterns=tuple(spec.get("patterns", ())),
                kind=str(spec.get("partition_type", "column")).lower(),
                gathers=bool(spec.get("gather_output")),
            )
            for spec in own.get("layer_specs", ())
        ]
    return [_of_words(pattern, style.lower()) for pattern, style in profile.tensor_plan.items()]


def share(profile: ModelProfile, section: Mapping[str, Any], tensor: int, index: int) -> ModelProfile:
    """The model as worker `index` of `tensor` holds it: cut parameters with their part, all others whole."""
    applied = rules(profile, section)
    mine = tuple(_part(parameter, applied, profile.kv_heads, tensor, index) for parameter in profile.parameters)
    return dataclasses.replace(profile, parameters=mine)


def check(profile: ModelProfile, section: Mapping[str, Any], tensor: int) -> None:
    """Refuse a model that cannot be shared out, as its workers would when they start."""
    if not is_modelled(section):
        return
    applied = rules(profile, section)
    if not applied:
        raise PlanError(
            f"mesh.tensor={tensor} cannot share out this model: it does not say how its layers are to be cut.",
            'Give its class a _tp_plan such as {"blocks.*.up": "colwise", "blocks.*.down": "rowwise"} '
            "(jobs/causal_lm.py has one), or DeepSpeed a tensor_parallel.partition_config (strategy.deepspeed_file), "
            "or set mesh.tensor=1.",
        )
    if not any(_rule(parameter, applied) for parameter in profile.parameters):
        layers = sorted({parameter.layer for parameter in profile.parameters if parameter.layer})
        raise PlanError(
            f"mesh.tensor={tensor} finds nothing to share in this model: its _tp_plan, or the partition_config in its "
            "place, names no layer there is.",
            f"There are: {', '.join(layers[:8]) or 'none that can be cut'}{' ...' if len(layers) > 8 else ''}",
        )


def _of_words(pattern: str, style: str) -> Rule:
    """`_wildcard_to_regex`. Words that cut nothing still take a layer out of the reach of later rules."""
    weight = ".*" + pattern.replace(".", r"\.").replace("*", ".*")
    kind, gathers = WORDS.get(style, ("skip", False))
    return Rule(
        patterns=(weight + ("$" if weight.endswith(r"\.weight") else r"\.weight$"),), kind=kind, gathers=gathers
    )


def _rule(parameter: Parameter, applied: list[Rule]) -> Rule | None:
    """What cuts the layer of a parameter; None: nothing does."""
    if not parameter.layer:
        return None
    rule = next((rule for rule in applied if rule.names(f"{parameter.layer}.weight")), None)
    if rule is None or rule.kind == "skip":
        return None
    # auto_tp.py, `_configure_gathered_column_tie_fallbacks`: an embedding's weight cannot be cut so.
    return None if rule.kind == "column" and rule.gathers and parameter.looked_up else rule


def _part(parameter: Parameter, applied: list[Rule], kv_heads: int, tensor: int, index: int) -> Parameter:
    rule = _rule(parameter, applied)
    dimension = 0 if rule and rule.kind == "column" else 1
    if rule is None or dimension >= len(parameter.shape):
        # layers.py, `LinearAllreduce`: the bias of a row stays whole.
        return parameter
    sizes = list(parameter.shape)
    sizes[dimension] = shard(sizes[dimension], parameter.layer, kv_heads, tensor, index)
    return dataclasses.replace(parameter, shape=tuple(sizes), numel=math.prod(sizes))


def shard(total: int, layer: str, kv_heads: int, tensor: int, index: int) -> int:
    """Worker `index`'s part of a dimension (tp_shard.py, `get_shard_size`): whole heads in attention, else even."""
    by_heads = kv_heads and total % kv_heads == 0 and "mlp" not in layer and layer not in HEADS
    if by_heads and not any(word in layer for word in EVEN):
        return total * _even(kv_heads, tensor, index) // kv_heads
    return _even(total, tensor, index)


def _even(total: int, tensor: int, index: int) -> int:
    return total // tensor + (index < total % tensor)
