"""What a model says of its layers: those that mesh.tensor can cut, and how. Read as DeepSpeed 0.19 reads it."""

from __future__ import annotations

from typing import Any

from torch import nn

from orchestrator.plans.memory.profile_types import Parameter

KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "multi_query_group_num",
    "n_head_kv",
    "kv_n_heads",
    "num_attention_heads",
    "n_heads",
    "attention_heads",
)
"""tp_shard.py, `_KV_HEAD_ATTRS`: the first that a model's config has counts."""
MATRIX = 2


def parameters(model: nn.Module) -> tuple[Parameter, ...]:
    """A model's parameters, with the layers that they could be cut with."""
    layers, embeddings = _owners(model)
    return tuple(
        Parameter(
            name=name,
            numel=parameter.numel(),
            trainable=parameter.requires_grad,
            shape=tuple(parameter.shape),
            layer=layers.get(id(parameter), ""),
            looked_up=id(parameter) in embeddings,
        )
        for name, parameter in model.named_parameters()
    )


def tensor_plan(model: nn.Module) -> dict[str, str]:
    """How the model can be cut, by its config, its class and itself (config.py, `_get_hf_tp_plan`)."""
    own = vars(model).get("_tp_plan")
    base = getattr(getattr(model, "config", None), "base_model_tp_plan", None)
    merged: dict[str, str] = {}
    seen: set[str] = set()
    for plan in (base, getattr(type(model), "_tp_plan", None), own):
        for pattern, style in plan.items() if isinstance(plan, dict) else ():
            bare = pattern.removeprefix("model.")
            if bare == pattern or bare not in seen:
                merged[pattern] = style
                seen.add(bare)
    return merged


def kv_heads(model: nn.Module) -> int:
    """Heads between which attention is cut; 0 where the model does not say (`AutoTPMeta.from_model_config`)."""
    config: Any = getattr(model, "config", None)
    config = getattr(config, "text_config", None) or config
    return next((int(heads) for name in KV_HEADS if (heads := getattr(config, name, None)) is not None), 0)


def _owners(model: nn.Module) -> tuple[dict[int, str], set[int]]:
    """By parameter: the module that is a matrix with a bias perhaps; and the parameters of embeddings."""
    layers: dict[int, str] = {}
    embeddings: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if not name or weight is None or weight.dim() != MATRIX:
            continue
        if isinstance(module, nn.Embedding):
            embeddings.add(id(weight))
            continue
        for parameter in (weight, module._parameters.get("bias")):
            if parameter is not None:
                layers.setdefault(id(parameter), name)
    return layers, embeddings
