"""Profiles made on fake tensors agree with what real passes allocate."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.schema import Job, JobSpec, Precision, PrecisionName
from orchestrator.jobs.image_classification import ImageClassification, SmallResNet
from orchestrator.jobs.regression import Mlp, Regression
from orchestrator.jobs.speech_models import Conformer, Wav2Vec2
from orchestrator.jobs.speech_recognition import SpeechRecognition
from orchestrator.plans.memory.profile_types import Activations, ModelProfile
from orchestrator.profile import cache, profile_files
from orchestrator.profile.model import profile_model
from orchestrator.runtime.worker.engine import prepare
from orchestrator.task import Task
from tests.integration.plan.memory_probe import most_allocated

pytestmark = pytest.mark.matrix(3)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        parts = self.qkv(self.norm1(tokens)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return tokens + self.mlp(self.norm2(tokens))


class Decoder(nn.Module):
    def __init__(self, vocabulary: int = 512, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


class Language(Task):
    def inputs(self, batch: Tensor) -> Tensor:
        return batch

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten(), reduction="sum")


class Items:
    """Three items of one kind."""

    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.item


class Spoken(SpeechRecognition):
    """Without a vocabulary to spell transcripts by."""

    def dataset(self, split: str) -> Any:
        return Task.dataset(self, split)


def task(kind: type[Task], model: Callable[[], nn.Module], item: Any) -> Task:
    return kind(model, lambda split: Items(item))


TASKS = {
    "resnet": task(
        ImageClassification, partial(SmallResNet, width=64, channels=3), (torch.zeros(3, 32, 32), torch.tensor(1))
    ),
    "decoder": task(Language, Decoder, torch.arange(128)),
    "mlp": task(Regression, partial(Mlp, inputs=256, width=512, depth=6), (torch.zeros(256), torch.tensor(0.0))),
}


OTHER = ModelProfile(parameters=(), buffer_bytes=0, activations=(Activations(micro_batch=1, bytes=1, batch_bytes=1),))


def spec(*, precision: PrecisionName = PrecisionName.fp32, checkpointing: bool = False) -> JobSpec:
    job = Job(name="profile", task="x:Y", steps=1, activation_checkpointing=checkpointing)
    return JobSpec(job=job, precision=Precision(name=precision))


def allocated(task: Task, wanted: JobSpec, micro_batch: int) -> int:
    """Most bytes at one time beyond what was there before, in a real pass; the second, when gradients are in place."""
    model = task.build_model()
    if wanted.precision.name is PrecisionName.bf16:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    prepare(task, model, wanted)
    batch = task.collate([task.dataset("train")[0]] * micro_batch)
    task.loss(model, batch).backward()
    return most_allocated(lambda: task.loss(model, batch).backward())


@pytest.mark.parametrize("micro_batch", [8, 32])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_activations_are_what_a_real_pass_allocates(name: str, micro_batch: int, checkpointing: bool) -> None:
    wanted = spec(checkpointing=checkpointing)
    planned = profile_model(TASKS[name], wanted, [micro_batch], prepare).activation_bytes(micro_batch)
    real = allocated(TASKS[name], wanted, micro_batch)
    assert planned == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize(
    ("model", "features"),
    [
        (partial(Conformer, tokens=30, bands=20), torch.zeros(200, 20)),
        (partial(Wav2Vec2, tokens=30, channels=32), torch.randn(16_000)),
    ],
    ids=["conformer", "wav2vec2"],
)
def test_ctc_is_measured_though_its_shapes_follow_from_lengths(
    model: Callable[[], nn.Module], features: Tensor
) -> None:
    one = task(Spoken, model, (features, torch.arange(3, 15)))
    planned = profile_model(one, spec(), [8], prepare).activation_bytes(8)
    assert planned == pytest.approx(allocated(one, spec(), 8), rel=0.1)


def test_half_precision_halves_what_is_kept() -> None:
    """bf16: the model computes in it, and its borders cast; CPU kernels widen some operands on the way."""
    half = spec(precision=PrecisionName.bf16)
    planned = profile_model(TASKS["decoder"], half, [8], prepare).activation_bytes(8)
    assert planned == pytest.approx(allocated(TASKS["decoder"], half, 8), rel=0.15)


def test_parameters_and_batches_are_counted_and_nothing_is_allocated() -> None:
    huge = task(Regression, partial(Mlp, inputs=2**16, width=2**16, depth=30), (torch.zeros(2**16), torch.tensor(0.0)))
    made = profile_model(huge, spec(), [4], prepare)
    assert sum(parameter.numel for parameter in made.parameters) == 30 * (2**32 + 2**16) + 2**16 + 1
    assert made.activations[0].batch_bytes == 4 * 4 * (2**16 + 1)


def test_between_two_micro_batches_lies_a_line() -> None:
    made = profile_model(TASKS["resnet"], spec(), [4, 8, 16], prepare)
    assert [point.micro_batch for point in made.activations] == [4, 16]
    alone = profile_model(TASKS["resnet"], spec(), [8], prepare)
    assert made.activation_bytes(8) == pytest.approx(alone.activation_bytes(8), rel=0.01)


class Choosy(ImageClassification):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss = super().loss(model, batch)
        return loss * 2 if loss.item() > 1 else loss


def test_what_depends_on_values_leaves_activations_unknown() -> None:
    one = task(Choosy, partial(SmallResNet, channels=3), (torch.zeros(3, 8, 8), torch.tensor(1)))
    made = profile_model(one, spec(), [4], prepare)
    assert made.parameters
    assert made.activation_bytes(4) is None
    assert "does not run on fake tensors" in made.notes[0]


def test_a_model_that_cannot_be_built_leaves_a_note() -> None:
    made = profile_model(task(ImageClassification, partial(SmallResNet, width=7), 0), spec(), [4], prepare)
    assert made.parameters == ()
    assert made.notes == (
        "The model does not run on fake tensors, which measure it "
        "(ValueError: model.width=7 must be a multiple of 4, the number of normalisation groups).",
    )


def test_profiles_are_remembered_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = cache.profile(TASKS["mlp"], spec(), [8], prepare, tmp_path)
    monkeypatch.setattr(cache, "profile_model", lambda *args: pytest.fail("it was known"))
    assert cache.profile(TASKS["mlp"], spec(), [8], prepare, tmp_path) == first
    (file,) = profile_files.folder().iterdir()
    monkeypatch.setattr(cache, "profile_model", lambda *args: OTHER)
    assert cache.profile(TASKS["mlp"], spec(), [9], prepare, tmp_path) == OTHER
    assert cache.profile(TASKS["mlp"], spec(checkpointing=True), [8], prepare, tmp_path) == OTHER
    file.write_text("{")
    assert cache.profile(TASKS["mlp"], spec(), [8], prepare, tmp_path) == OTHER


def test_what_could_not_be_measured_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unknown = ModelProfile(parameters=(), buffer_bytes=0, notes=("the data is out of reach",))
    monkeypatch.setattr(cache, "profile_model", lambda *args: unknown)
    cache.profile(TASKS["mlp"], spec(), [8], prepare, tmp_path)
    monkeypatch.setattr(cache, "profile_model", lambda *args: OTHER)
    assert cache.profile(TASKS["mlp"], spec(), [8], prepare, tmp_path) == OTHER


def test_changed_code_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "our_layers.py"
    source.write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("our_layers")
    before = cache.fingerprint(TASKS["mlp"], spec(), [8], tmp_path)
    source.write_text("WIDTH = 2\n")
    assert cache.fingerprint(TASKS["mlp"], spec(), [8], tmp_path) != before


def test_only_the_newest_profiles_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(profile_files, "KEPT", 2)
    monkeypatch.setattr(cache, "profile_model", lambda *args: OTHER)
    for size in range(5):
        cache.profile(TASKS["mlp"], spec(), [size + 1], prepare, tmp_path)
    assert len(list(profile_files.folder().iterdir())) == 2


def test_a_home_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "orchestrator").write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.profile(TASKS["mlp"], spec(), [8], prepare, tmp_path).parameters
