"""Where DeepSpeed keeps a model's training state, by names that no strategy, precision or number of workers changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import PlanError
from orchestrator.plans.types import MeshShape
from orchestrator.runtime.checkpoint import tensor_parallel
from orchestrator.runtime.checkpoint.shards import Piece, ShardReader
from orchestrator.runtime.checkpoint.swapped import Swapped

SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What changes in DeepSpeed's loss scalers while they train."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where this rank keeps elements of one trainable parameter, as the optimizer sees them."""

    name: str
    begin: int
    end: int
    """Which elements of the flattened parameter (or of this worker's part of it)."""
    flat: Tensor
    """What the optimizer steps: one parameter, or many end to end."""
    offset: int
    """Where the elements lie in `flat`."""

    def of(self, flat: Tensor) -> Tensor:
        """The elements in a tensor laid out as `flat`."""
        return flat.detach().view(-1)[self.offset : self.offset + self.end - self.begin]


class States:
    """The training state of one DeepSpeed engine, taken out as pieces and put back."""

    def __init__(
        self, engine: Any, *, stage: int, mesh: MeshShape, rank: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._engine = engine
        self._optimizer = engine.optimizer
        self._steps = getattr(self._optimizer, "optimizer", self._optimizer)
        self._swapped = Swapped(self._optimizer)
        self._stage = stage
        self._mesh = mesh
        self._shapes = shapes
        cell = mesh.tensor * mesh.pipeline
        self._data_rank, self._cell_rank = divmod(rank, cell)
        self._parameters: dict[str, nn.Parameter] = dict(engine.module.named_parameters())
        self._boxes = tensor_parallel.boxes(self._parameters, shapes) if mesh.tensor > 1 else {}
        self._shares = _shares(shapes, mesh.data)
        self._homes = list(self._find_homes())
        self.aliases = _aliases(engine.module)

    # --- taking out --------------------------------------------------------------------------------------------------

    def pieces(self) -> list[Piece]:
        """What this rank writes: views of live tensors. Each element is written by one rank."""
        return [*self._trainable_pieces(), *self._frozen_pieces(), *self._buffer_pieces()]

    def scalars(self) -> dict[str, dict[str, Any]]:
        """The optimizer's other numbers, as each parameter's step count."""
        return {
            f"optimizer/{key}/{home.name}": _plain(value)
            for home in self._homes
            for key, value in self._state_of(home).items()
            if not _is_like(key, value, home.flat)
        }

    def scaler(self) -> dict[str, float]:
        """The loss scaler's state, with fp16."""
        scaler = self._scaler()
        return {name: getattr(scaler, name) for name in SCALER_FIELDS if hasattr(scaler, name)} if scaler else {}

    def _trainable_pieces(self) -> Iterator[Piece]:
        for home in self._written():
            yield self._piece(home, "model", home.of(self._swapped.seen(home.flat)))
            for key, value in self._state_of(home).items():
                if _is_like(key, value, home.flat):
                    yield self._piece(home, f"optimizer/{key}", home.of(self._swapped.seen(value)))

    def _written(self) -> list[Home]:
        """The homes that this rank speaks for: what several ranks hold alike is shared out among them."""
        mine = [home for home in self._homes if home.name in self._boxes or self._cell_rank == 0]
        if self._stage > 0:
            return mine
        return [home for home in mine if self._shares[home.name] == self._data_rank]

    def _piece(self, home: Home, kind: str, values: Tensor) -> Piece:
        return Piece(
            name=f"{kind}/{home.name}",
            shape=self._shapes[home.name],
            values=values,
            begin=home.begin,
            box=self._boxes.get(home.name),
        )

    def _frozen_pieces(self) -> Iterator[Piece]:
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                continue
            values, begin = self._held_frozen(name, parameter)
            in_cell = name in self._boxes or self._cell_rank == 0
            mine = self._stage == 3 or (in_cell and self._shares[name] == self._data_rank)
            if mine and values.numel():
                box = self._boxes.get(name)
                yield Piece(name=f"model/{name}", shape=self._shapes[name], values=values, begin=begin, box=box)

    def _held_frozen(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int]:
        """What this rank holds of a frozen parameter, and the number of the first element."""
        if self._stage != 3:
            return parameter.detach().reshape(-1), 0
        begin, end = self._run(name)
        return parameter.ds_tensor.detach().view(-1)[: end - begin], begin  # type: ignore[attr-defined]

    def _buffer_pieces(self) -> Iterator[Piece]:
        if self._cell_rank == 0:
            for name, buffer in self._buffers().items():
                values = buffer.detach().reshape(-1)
                yield Piece(name=f"buffers/{self._data_rank}/{name}", shape=tuple(buffer.shape), values=values)

    # --- putting back ------------------------------------------------------------------------------------------------

    def install(self, reader: ShardReader, *, optimizer: bool = True) -> None:
        """Take up a checkpoint, of any strategy and number of workers. `optimizer`: not only weights and buffers."""
        keys = sorted({name.split("/", 2)[1] for name in reader.names("optimizer/")}) if optimizer else []
        if optimizer:
            self._steps.state.clear()
            self._swapped.forget_states()
        with torch.no_grad():
            for flat, homes in self._by_flat():
                with self._swapped.brought_in(flat):
                    for home in homes:
                        home.of(flat).copy_(self._read(reader, f"model/{home.name}", home))
                        if optimizer:
                            self._install_states(reader, home, keys)
            if optimizer:
                self._install_rest(reader)
            self._install_parameters(reader)
            for name, buffer in self._buffers().items():
                buffer.copy_(self._read_buffer(reader, name))

    def _by_flat(self) -> list[tuple[Tensor, list[Home]]]:
        """What the optimizer steps, each with the parameters that are in it."""
        found: dict[int, tuple[Tensor, list[Home]]] = {}
        for home in self._homes:
            found.setdefault(id(home.flat), (home.flat, []))[1].append(home)
        return list(found.values())

    def _install_states(self, reader: ShardReader, home: Home, keys: Sequence[str]) -> None:
        state = self._steps.state[home.flat]
        for key in keys:
            name = f"optimizer/{key}/{home.name}"
            if name in reader:
                if key not in state:
                    state[key] = torch.zeros_like(home.flat)
                home.of(state[key]).copy_(self._read(reader, name, home))
        for name, value in reader.scalars.items():
            _, key, owner = name.split("/", 2)
            if owner == home.name:
                state[key] = _from_plain(value, home.flat, self._steps)

    def _install_rest(self, reader: ShardReader) -> None:
        if self._stage in (1, 2):  # DeepSpeed then makes its own maps to optimizer states anew after the next step
            self._optimizer._hp_optimizer_states_linked = False
        for name, value in reader.manifest["scaler"].items():
            if scaler := self._scaler():
                setattr(scaler, name, value)

    def _install_parameters(self, reader: ShardReader) -> None:
        """Fill what forward passes read: all of the model, or this rank's parts of it."""
        if self._stage == 3:
            self._optimizer.checkpoint_event_prologue()
        for name, parameter in self._parameters.items():
            if self._stage == 3:
                begin, end = self._run(name)
                part = parameter.ds_tensor.detach().view(-1)[: end - begin]  # type: ignore[attr-defined]
                part.copy_(reader.elements(f"model/{name}", begin, end))
            else:
                parameter.copy_(reader.whole(f"model/{name}", self._boxes.get(name)))
        if self._stage == 3:
            self._optimizer.checkpoint_event_epilogue()

    def _read(self, reader: ShardReader, name: str, home: Home) -> Tensor:
        return reader.elements(name, home.begin, home.end, self._boxes.get(home.name))

    def _read_buffer(self, reader: ShardReader, name: str) -> Tensor:
        if reader.manifest["mesh"]["data"] == self._mesh.data:
            return reader.whole(f"buffers/{self._data_rank}/{name}")
        return mean_buffer(reader, name)

    # --- where things are --------------------------------------------------------------------------------------------

    def _buffers(self) -> dict[str, Tensor]:
        state = self._engine.module.state_dict()
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise PlanError(
                    f"The model's state has {name}, which is a {type(value).__name__}: checkpoints keep tensors only.",
                    "Register it as a buffer, or leave it out of get_extra_state().",
                )
        buffers = dict(self._engine.module.named_buffers())
        return {name: buffer for name, buffer in buffers.items() if name in state}

    def _state_of(self, home: Home) -> dict[str, Any]:
        state: dict[str, Any] = self._steps.state.get(home.flat, {})
        return {key: value for key, value in state.items() if value is not None}

    def _scaler(self) -> Any:
        for holder in ("loss_scaler", "loss_scale_config"):
            if hasattr(self._optimizer, holder):
                return getattr(self._optimizer, holder)
        return None

    def _run(self, name: str) -> tuple[int, int]:
        """The elements of a parameter that ZeRO 3 gives to this rank."""
        numel = math.prod(self._shapes[name])
        part = math.ceil(numel / self._mesh.data)
        return min(numel, self._data_rank * part), min(numel, (self._data_rank + 1) * part)

    def _find_homes(self) -> Iterator[Home]:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        if self._stage == 3:
            yield from self._homes_of_zero3()
        elif self._stage > 0:
            yield from self._homes_of_zero12(names)
        elif hasattr(self._optimizer, "fp32_groups"):
            for group, masters in zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True):
                for parameter, master in zip(group, masters, strict=True):
                    yield _whole_home(names[id(parameter)], master)
        elif isinstance(self._optimizer, torch.optim.Optimizer):
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    yield _whole_home(names[id(parameter)], parameter)
        else:
            kind = type(self._optimizer).__name__
            raise PlanError(f"Checkpoints of DeepSpeed's {kind} cannot be saved.", "Leave the optimizer as planned.")

    def _homes_of_zero12(self, names: Mapping[int, str]) -> Iterator[Home]:
        optimizer = self._optimizer
        flats = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_groups_flat_partition
        for group, flat in zip(optimizer.bit16_groups, flats, strict=True):
            for parameter in group:
                mapping = parameter._hp_mapping
                if mapping is not None:
                    begin, numel = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
                    yield Home(
                        name=names[id(parameter)],
                        begin=begin,
                        end=begin + numel,
                        flat=flat,
                        offset=mapping.hp_fragment_address.start,
                    )

    def _homes_of_zero3(self) -> Iterator[Home]:
        optimizer = self._optimizer
        for name, parameter in self._parameters.items():
            begin, end = self._run(name)
            if parameter.requires_grad and begin < end:
                group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
                flat = optimizer.fp32_partitioned_groups_flat[group]
                yield Home(name=name, begin=begin, end=end, flat=flat, offset=offset)


def mean_buffer(reader: ShardReader, name: str) -> Tensor:
    """A buffer's mean over the data ranks: running statistics of each rank's share of the data, put together.

    In double precision: the mean of equal numbers is that number, to the bit.
    """
    first = reader.whole(f"buffers/0/{name}")
    ranks = reader.manifest["mesh"]["data"]
    if not first.is_floating_point() or ranks == 1:
        return first
    total = sum(reader.whole(f"buffers/{rank}/{name}").double() for rank in range(ranks))
    return torch.as_tensor(total / ranks).to(first.dtype)


def _shares(shapes: Mapping[str, tuple[int, ...]], ranks: int) -> dict[str, int]:
    """Which data rank writes a parameter that all of them hold: about as many elements each."""
    total = sum(math.prod(shape) for shape in shapes.values()) or 1
    shares, passed = {}, 0
    for name, shape in shapes.items():
        shares[name] = min(ranks - 1, passed * ranks // total)
        passed += math.prod(shape)
    return shares


def _whole_home(name: str, flat: Tensor) -> Home:
    return Home(name=name, begin=0, end=flat.numel(), flat=flat, offset=0)


def _is_like(key: str, value: Any, flat: Tensor) -> bool:
    return key != "step" and isinstance(value, Tensor) and value.shape == flat.shape


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"value": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
    return {"value": value, "dtype": None}


def _from_plain(data: Mapping[str, Any], flat: Tensor, optimizer: torch.optim.Optimizer) -> Any:
    if data["dtype"] is None:
        return data["value"]
    on_device = any(group.get("capturable") or group.get("fused") for group in optimizer.param_groups)
    return torch.tensor(data["value"], dtype=getattr(torch, data["dtype"]), device=flat.device if on_device else "cpu")


def _aliases(module: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, each with the name it is kept by."""
    found: dict[str, str] = {}
    for named in (module.named_parameters, module.named_buffers):
        kept = {id(tensor): name for name, tensor in named()}
        for name, tensor in named(remove_duplicate=False):
            if kept[id(tensor)] != name:
                found[name] = kept[id(tensor)]
    return found
