"""The networks of jobs/: what comes out of them, and that all of their weights learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss

from orchestrator.errors import ConfigError
from orchestrator.jobs.causal_lm import Gpt, Transformer
from orchestrator.jobs.image_models import Inception, ResNet, convnext, vit
from orchestrator.jobs.regression import MixedMlp
from orchestrator.jobs.speech_models import Conformer, CtcNet, KeywordNet, Wav2Vec2
from orchestrator.jobs.speech_recognition import BLANK, BeamSearch, beam, distance, greedy
from orchestrator.jobs.text_classification import BagOfTokens, Bert

PHOTOS = (torch.randn(2, 3, 32, 32),)
TOKENS = torch.randint(3, 50, (2, 12))
FRAMES = (torch.randn(2, 30, 20), torch.tensor([30, 17]))
WAVES = (torch.randn(2, 1000), torch.tensor([1000, 500]))
SHORT = {"channels": 16, "width": 16, "blocks": 1, "dropout": 0.0}


@pytest.mark.parametrize(
    ("build", "inputs", "shape"),
    [
        (lambda: ResNet(depth=10, classes=5, width=8), PHOTOS, (2, 5)),
        (lambda: ResNet(depth=18, classes=5, width=8, small=False), PHOTOS, (2, 5)),
        (lambda: ResNet(depth=50, classes=5, width=8), PHOTOS, (2, 5)),
        (lambda: Inception(classes=5, width=32, stages=2, blocks=1), PHOTOS, (2, 5)),
        (lambda: vit(classes=5, width=24, depth=2), PHOTOS, (2, 5)),
        (lambda: convnext(classes=5, width=8, depths=[1, 1]), PHOTOS, (2, 5)),
        (lambda: MixedMlp(numbers=3, categories=[4, 5], width=16), (torch.randn(2, 3), torch.ones(2, 2).long()), (2,)),
        (lambda: KeywordNet(classes=5, bands=20, width=16, blocks=2), FRAMES, (2, 5)),
        (lambda: CtcNet(tokens=7, bands=20, width=16, blocks=2), FRAMES, (2, 15, 7)),
        (lambda: Conformer(tokens=7, bands=20, width=16, blocks=2), FRAMES, (2, 15, 7)),
        (lambda: Wav2Vec2(tokens=7, **SHORT), WAVES, (2, 2, 7)),
        (lambda: BagOfTokens(vocabulary=50, classes=5), (TOKENS, TOKENS > 5), (2, 5)),
        (lambda: Bert(vocabulary=50, classes=5, width=16, depth=1), (TOKENS, TOKENS > 5), (2, 5)),
        (lambda: Gpt(vocabulary=50, context=12, width=16), (TOKENS,), (2, 12, 50)),
        (lambda: Transformer("gpt2", vocabulary=50, context=12, width=16, blocks=1), (TOKENS,), (2, 12, 50)),
        (lambda: Transformer("llama", vocabulary=50, context=12, width=16, blocks=1), (TOKENS,), (2, 12, 50)),
    ],
)
def test_networks(build: Callable[[], nn.Module], inputs: tuple[Tensor, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build()
    outputs = model(*inputs)
    assert outputs.shape == shape
    outputs.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ("build", "recording"),
    [
        (lambda: KeywordNet(bands=20), torch.randn(1, 17, 20)),
        (lambda: CtcNet(tokens=7, bands=20), torch.randn(1, 17, 20)),
        (lambda: Conformer(tokens=7, bands=20), torch.randn(1, 17, 20)),
        (lambda: Wav2Vec2(tokens=7, **SHORT), torch.randn(1, 900)),
        (lambda: Wav2Vec2(tokens=7, **SHORT), torch.randn(1, 30)),
    ],
    ids=["keywords", "ctc", "conformer", "wav2vec2", "hardly any sound"],
)
def test_what_is_filled_up_changes_nothing(build: Callable[[], nn.Module], recording: Tensor) -> None:
    model = build().eval()
    length = torch.tensor([recording.shape[1]])
    filled = torch.cat([recording, torch.zeros(1, 700, *recording.shape[2:])], dim=1)
    with torch.no_grad():
        short, long = model(recording, length), model(filled, length)
    if isinstance(model, KeywordNet):
        assert torch.allclose(long, short, atol=1e-5)
    else:
        frames = int(model.frames(length))  # type: ignore[operator]
        assert short.shape[1] == frames < long.shape[1]
        assert torch.allclose(long[:, :frames], short, atol=1e-5)


def test_wav2vec2_comes_from_a_folder_with_a_head_for_our_characters(tmp_path: Path) -> None:
    trained = Wav2Vec2(tokens=7, **SHORT).eval()
    trained.model.save_pretrained(tmp_path)
    again, other = Wav2Vec2(tokens=7, folder=str(tmp_path)).eval(), Wav2Vec2(tokens=9, folder=str(tmp_path)).eval()
    assert torch.equal(again(*WAVES), trained(*WAVES))
    assert other(*WAVES).shape == (2, 2, 9)
    assert torch.equal(other.model.wav2vec2(*WAVES[:1])[0], trained.model.wav2vec2(*WAVES[:1])[0])


@pytest.mark.parametrize(
    ("build", "inputs", "message"),
    [
        (lambda: CtcNet(tokens=7, bands=20), WAVES, "takes 20 log-mel bands, and the data has waveforms"),
        (lambda: Conformer(tokens=7, bands=40), FRAMES, "takes 40 log-mel bands, and the data has 20 log-mel bands"),
        (lambda: Wav2Vec2(tokens=7, **SHORT), FRAMES, "takes waveforms, and the data has 20 log-mel bands"),
    ],
)
def test_features_of_the_wrong_kind(build: Callable[[], nn.Module], inputs: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()(*inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(depth=34), "model.depth=34 must be one of 10, 18, 50"),
        (lambda: ResNet(width=30), "model.width=30 must be a multiple of 8"),
        (lambda: Conformer(tokens=7, width=10), "model.width=10 must be a multiple of model.heads=4"),
        (lambda: Inception(width=40), "model.width=40 must be a multiple of 32"),
    ],
)
def test_networks_that_cannot_be_made(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("heard", "said", "expected"),
    [
        ("", "", 0),
        ("one", "", 1),
        ("one two", "one two", 0),
        ("one too", "one two", 1),
        ("two one", "one two three", 2),
    ],
)
def test_words_to_change(heard: str, said: str, expected: int) -> None:
    assert distance(heard.split(), said.split()) == expected


def test_greedy_leaves_out_repeats_and_blanks() -> None:
    frames = torch.tensor([[3, 3, BLANK, 3, 4, 4, BLANK, 5], [5, BLANK, BLANK, 6, 6, 6, 6, 6]])
    assert greedy(nn.functional.one_hot(frames, 7).float(), torch.tensor([7, 2])) == [[3, 3, 4], [5]]


def test_a_beam_finds_what_is_likeliest_over_all_paths() -> None:
    """Blank is the likeliest in both frames, and yet one token or the other way round is said more probably."""
    log_probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy(log_probabilities[None], torch.tensor([2])) == [[]]
    assert beam(log_probabilities) == [1]
    task = BeamSearch(nn.Identity, lambda split: None)
    recordings = torch.stack([log_probabilities, log_probabilities.flip(1)])
    assert task.tokens(recordings + 5.0, torch.tensor([2, 1])) == [[1], [1]]


def test_a_beam_agrees_with_the_loss() -> None:
    torch.manual_seed(0)
    log_probabilities = torch.randn(6, 3).log_softmax(dim=-1)
    found = beam(log_probabilities, width=50)
    every = [[a, b, c][:n] for n in range(4) for a in (1, 2) for b in (1, 2) for c in (1, 2)]

    def cost(tokens: list[int]) -> float:
        lengths = torch.tensor([6]), torch.tensor([len(tokens)])
        return float(ctc_loss(log_probabilities[:, None], torch.tensor([tokens]), *lengths, reduction="sum"))

    assert cost(found) == min(cost(tokens) for tokens in every)
