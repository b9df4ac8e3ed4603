"""Preparations: what becomes of photos, recordings, texts and tables, and what is unreadable."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch

from orchestrator.data import preparation, text
from orchestrator.data.audio import LogMel, Waveform, log_mel, resample
from orchestrator.data.columns import Columns
from orchestrator.data.images import Images, Randomly, decode, resize
from orchestrator.data.prepared import Prepared, PreparedDataset
from orchestrator.data.readers import files, tables
from orchestrator.data.records import NAME, Splits, Unreadable
from orchestrator.data.text import Packed, Tokens
from orchestrator.errors import ConfigError, DataError, TargetError
from tests.unit.data import makers
from tests.unit.data.makers import InMemory


def prepared(tmp_path: Path, sources: Any, prepare: Any, skip: int = 0, **splits: Any) -> Prepared:
    given = sources if isinstance(sources, dict) else {"train": InMemory(rows=tuple(sources))}
    return Prepared(
        splits=Splits(sources=given, **splits), preparation=prepare, cache=str(tmp_path / "cache"), skip_unreadable=skip
    )


def dataset(*arguments: Any, split: str = "train", **settings: Any) -> PreparedDataset:
    found = prepared(*arguments, **settings).dataset(split)
    assert found is not None
    return found


# --- photos ----------------------------------------------------------------------------------------------------------


def test_photos_become_standardised_tensors_with_a_class(tmp_path: Path) -> None:
    sources = files.by_split(str(makers.photos(tmp_path / "photos")), files.IMAGES)
    train = dataset(tmp_path, sources, Images(size=8))
    assert train.facts["classes"] == ["blue", "red"]
    assert len(train) == 12
    images = torch.stack([train[k][0] for k in range(len(train))])
    assert images.shape == (12, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert images.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], rel=1e-3)
    labels = [train[k][1] for k in range(len(train))]
    assert labels == [0] * 6 + [1] * 6
    assert images[0].mean(dim=(1, 2))[2] > images[0].mean(dim=(1, 2))[0], "the blue ones are blue"
    test = dataset(tmp_path, sources, Images(size=8), split="test")
    assert test.facts == train.facts, "averages are those of the training split"
    assert prepared(tmp_path, sources, Images(size=8)).dataset("val") is None


@pytest.mark.parametrize(("fit", "expected"), [("crop", 90), ("squash", 0)])
def test_what_is_not_square_is_cropped_or_squashed(fit: str, expected: int) -> None:
    pixels = np.full((10, 30, 3), 90, dtype=np.uint8)
    pixels[:, :8] = 0
    resized = resize(pixels, 10, fit)
    assert resized.shape == (3, 10, 10)
    assert resized[0, 0, 0] == expected


def test_grey_photos_have_one_channel(tmp_path: Path) -> None:
    content = makers.photo(tmp_path / "x.png", (90, 90, 90)).read_bytes()
    assert decode(content, 1).shape == (12, 16, 1)
    assert resize(decode(content, 1), 8, "crop").shape == (1, 8, 8)


def broken_photos(folder: Path) -> dict[str, bytes]:
    jpg = makers.photo(folder / "good.jpg", height=200, width=200).read_bytes()
    png = makers.photo(folder / "good.png").read_bytes()
    return {
        "half.jpg": jpg[: len(jpg) // 2],
        "half.png": png[: len(png) // 2],
        "nothing.jpg": b"",
        "words.jpg": b"this is no photo",
        "head.jpg": jpg[:4] + jpg[-2:],
    }


@pytest.mark.parametrize("name", ["half.jpg", "half.png", "nothing.jpg", "words.jpg", "head.jpg"])
def test_a_broken_photo_is_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unreadable, match=r"ends before|file is empty|not an image"):
        decode(broken_photos(tmp_path)[name], 3)


def test_a_photo_with_something_behind_it_is_whole(tmp_path: Path) -> None:
    jpg = makers.photo(tmp_path / "x.jpg").read_bytes()
    assert decode(jpg + b"\x00\x00\n", 3).shape == (12, 16, 3)


def test_photos_of_hugging_face_lie_in_their_records(tmp_path: Path) -> None:
    content = makers.photo(tmp_path / "x.png").read_bytes()
    rows = [{"image": {"bytes": content, "path": None}, "label": k % 2} for k in range(4)]
    assert dataset(tmp_path, rows, Images(size=8))[3][1] == 1


def test_unreadable_photos_are_counted_and_named(tmp_path: Path) -> None:
    root = makers.photos(tmp_path / "photos")
    for name, content in broken_photos(tmp_path / "broken").items():
        (root / "train" / "red" / name).write_bytes(content)
    (root / "test" / "green").mkdir()
    makers.photo(root / "test" / "green" / "1.png")
    sources = files.by_split(str(root), files.IMAGES)
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, sources, Images(size=8), skip=5)
    assert caught.value.message.startswith("6 items cannot be used, and data.skip_unreadable=5: ")
    assert "red/half.jpg (the file ends before the image does)" in caught.value.message
    assert "green/1.png (label 'green' is not in the training split)" in caught.value.message
    assert caught.value.hint.endswith("data.skip_unreadable=6.")
    train = dataset(tmp_path, sources, Images(size=8), skip=6)
    assert len(train) == 12
    assert [problem.split for problem in train.problems] == ["test"] + ["train"] * 5


def test_random_changes_follow_the_numbers_they_are_given() -> None:
    image = torch.arange(3 * 8 * 8, dtype=torch.float32).reshape(3, 8, 8) + 1
    change = Randomly(shift=2, flip=True, hide=3)
    chances = [np.random.Generator(np.random.Philox(key=(1, k))) for k in (0, 0, 1)]
    one, same, other = (change((image, 5), chance) for chance in chances)
    assert one[1] == 5
    assert one[0].shape == (3, 8, 8)
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(Randomly()((image, 5), chances[0])[0], image)
    assert image.min() == 1, "what is given stays as it is"


# --- recordings ------------------------------------------------------------------------------------------------------


def test_recordings_become_standardised_frames(tmp_path: Path) -> None:
    sources = files.by_split(str(makers.sounds(tmp_path / "sounds")), files.AUDIO)
    train = dataset(tmp_path, sources, LogMel(rate=8000, bands=20), test_names="*_[0-1].wav")
    features, label = train[0]
    assert features.dtype == torch.float32
    assert label == 0
    assert [len(train[k][0]) for k in range(4)] == [25, 27, 29, 31], "one frame each 10 ms, and one more"
    frames = torch.cat([train[k][0] for k in range(len(train))])
    assert frames.mean(dim=0).abs().max() < 1e-3
    low, high = (train.items[k]["features"].mean(axis=0).argmax() for k in (0, 7))
    assert low < high, "a higher tone is in a higher band"
    assert len(dataset(tmp_path, sources, LogMel(rate=8000, bands=20), test_names="*_[0-1].wav", split="test")) == 4


def test_recordings_stay_waveforms(tmp_path: Path) -> None:
    sources = files.by_split(str(makers.sounds(tmp_path / "sounds")), files.AUDIO)
    train = dataset(tmp_path, sources, Waveform(rate=4000))
    for k, label in ((0, 0), (len(train) - 1, 1)):
        wave, found = train[k]
        assert (wave.dtype, found) == (torch.float32, label)
        assert wave.mean().abs() < 1e-5
        assert wave.std() == pytest.approx(1.0, rel=0.01)
    assert train[0][0].shape == (800,), "0.2 s"
    again = preparation.load(train.preprocessing)
    assert torch.equal(again.item({"file": str(tmp_path / "sounds/0/0_ann_0.wav"), "label": "0"})[0], train[0][0])


def test_transcripts_become_numbers_of_their_characters(tmp_path: Path) -> None:
    rows = [
        {"file": str(makers.sound(tmp_path / f"{k}.wav", 300)), "text": words} for k, words in enumerate(["ab", "ba a"])
    ]
    train = dataset(tmp_path, rows, LogMel(rate=8000, target="text"))
    assert [train[k][1].tolist() for k in range(2)] == [[4, 5], [5, 4, 3, 4]]
    decode_text = text.decoder("characters", train.facts["vocabulary"])
    assert decode_text(train[1][1].tolist()) == "ba a"


def broken_sounds(folder: Path) -> dict[str, bytes]:
    wav = makers.sound(folder / "good.wav", 300).read_bytes()
    soundfile.write(folder / "nan.wav", np.full(800, np.nan), 8000, subtype="FLOAT")
    return {
        "half.wav": wav[: len(wav) // 2],
        "head.wav": wav[:44],
        "words.wav": b"this is no recording",
        "chunk.wav": wav[:30],
        "nan.wav": (folder / "nan.wav").read_bytes(),
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("half.wav", r"the file ends after \d+ of \d+ bytes of sound"),
        ("head.wav", "the file ends after 0 of"),
        ("words.wav", "not a recording that can be read"),
        ("chunk.wav", "without sound in it"),
        ("nan.wav", "samples that are not numbers"),
    ],
)
def test_a_broken_recording_is_unreadable(tmp_path: Path, name: str, reason: str) -> None:
    file = tmp_path / name
    content = broken_sounds(tmp_path)[name]
    file.write_bytes(content)
    prepare = LogMel(rate=8000).preparer({"classes": ["a"]})
    with pytest.raises(Unreadable, match=reason):
        prepare({"file": str(file), "label": "a"})


def test_what_is_too_long_or_says_nothing_is_unreadable(tmp_path: Path) -> None:
    file = str(makers.sound(tmp_path / "x.wav", 300, seconds=2))
    with pytest.raises(Unreadable, match=r"2.0 s are longer than data.longest_s=1"):
        LogMel(rate=8000, longest_s=1).preparer({"classes": ["a"]})({"file": file, "label": "a"})
    prepare = LogMel(rate=8000, target="text").preparer({"vocabulary": {"characters": "ab"}})
    with pytest.raises(Unreadable, match="no transcript"):
        prepare({"file": file, "text": " "})
    with pytest.raises(Unreadable, match="characters that the training split has not: z"):
        prepare({"file": file, "text": "abz"})


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16_000), (44_100, 16_000), (16_000, 8000), (48_000, 8000)])
def test_resampling_keeps_a_tone(rate: int, wanted: int) -> None:
    tone = lambda hertz: torch.sin(2 * math.pi * 440 * torch.arange(hertz) / hertz)  # noqa: E731 - one second of it
    resampled = resample(tone(rate), rate, wanted)
    assert len(resampled) == wanted
    middle = slice(wanted // 10, -wanted // 10)
    assert (resampled - tone(wanted))[middle].abs().max() < 2e-3


def test_resampling_lets_no_higher_tone_through() -> None:
    high = torch.sin(2 * math.pi * 7000 * torch.arange(16_000) / 16_000)
    assert resample(high, 16_000, 8000)[400:-400].abs().max() < 1e-2


def test_a_short_recording_is_one_frame_and_more() -> None:
    assert log_mel(torch.zeros(10), 16_000, 40, 25, 10).shape == (2, 40)


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "characters", "words", "bpe"])
def test_texts_can_be_read_back(kind: Any) -> None:
    texts = ["a naïve café", "the cat sat on the mat", "the 猫 sat"] * 3
    known = text.learn_vocabulary(texts, kind, 300)
    encode, decode_text = text.encoder(kind, known), text.decoder(kind, known)
    for words in texts:
        numbers = encode(words)
        assert numbers.min() >= len(text.SPECIAL)
        assert numbers.max() < known["size"]
        assert decode_text(numbers.tolist()) == words


def test_what_is_not_in_the_vocabulary_is_unknown() -> None:
    assert text.encoder("characters", text.learn_vocabulary(["ab"], "characters", 0))("axb").tolist() == [3, 0, 4]
    assert text.encoder("words", text.learn_vocabulary(["a a b"], "words", 4))("a b c").tolist() == [3, 0, 0]


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.vocabulary=100 is too small: byte pairs begin with 259"):
        text.learn_vocabulary(["ab"], "bpe", 100)


def test_sentences(tmp_path: Path) -> None:
    sources = tables.by_split(str(makers.sentences(tmp_path / "sst")), ["text", "label"])
    train = dataset(tmp_path, sources, Tokens(tokens="words", vocabulary=50, longest=4))
    assert len(train) == 40
    tokens, label = train[0]
    assert (tokens.shape, tokens.dtype, label) == ((4,), torch.int64, 1)
    assert train.facts["classes"] == ["0", "1"]
    with pytest.raises(ConfigError, match=r"no column 'review' for the text; it has: text, label"):
        dataset(tmp_path, sources, Tokens(text_column="review"))


def test_packed_rows_overlap_by_one_token_and_cross_records(tmp_path: Path) -> None:
    rows = [{"text": words} for words in ("abcde", "", "fghij", "klmno")]
    train = dataset(tmp_path, rows, Packed(context=4, tokens="characters"))
    decode_text = text.decoder("characters", train.facts["vocabulary"])
    assert [decode_text(train[k].tolist()) for k in range(len(train))] == ["abcde", "efghi", "ijklm"]
    with pytest.raises(IndexError):
        train[3]
    apart = dataset(tmp_path, rows, Packed(context=4, tokens="characters", separate=True))
    assert apart[1].tolist() == [7, text.END, text.END, 8, 9]


# --- tables ----------------------------------------------------------------------------------------------------------

ROWS = [
    {"size": "1", "colour": "red", "price": "10"},
    {"size": "3", "colour": "blue", "price": "30"},
    {"size": "", "colour": "red", "price": "20"},
    {"size": "2", "colour": "NA", "price": "20"},
]


def test_numbers_are_imputed_and_standardised_and_categories_numbered(tmp_path: Path) -> None:
    train = dataset(tmp_path, ROWS, Columns(target="price"))
    assert train.facts["categories"] == {"colour": ["blue", "red"]}
    assert train.facts["numeric"]["size"]["median"] == 2
    numbers, codes, targets = (torch.stack([train[k][part] for k in range(4)]) for part in range(3))
    assert numbers[:, 0].tolist() == pytest.approx([-1.2247, 1.2247, 0, 0], abs=1e-3)
    assert codes[:, 0].tolist() == [2, 1, 2, 0]
    assert targets.tolist() == pytest.approx([-1.4142, 1.4142, 0, 0], abs=1e-3)


def test_text_among_numbers_is_unreadable_and_a_new_category_is_another(tmp_path: Path) -> None:
    rows = ROWS * 5 + [{"size": "big", "colour": "red", "price": "1"}, {"size": "1", "colour": "red", "price": "free"}]
    train = dataset(tmp_path, rows, Columns(target="price"), skip=2)
    reasons = [problem.reason for problem in train.problems]
    assert reasons == ["size='big' is not a number", "price='free' is not a number"]
    prepare = Columns(target="price").preparer(train.facts)
    assert prepare({"size": "1", "colour": "pink", "price": "1"})["codes"].tolist() == [0]
    with pytest.raises(Unreadable, match="it has no price"):
        prepare({"size": "1", "colour": "red", "price": ""})


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, (["a", "b"], ["c"])),
        ({"categories": ["b"]}, (["a", "c"], ["b"])),
        ({"numeric": ["a"]}, (["a"], ["b", "c"])),
        ({"numeric": ["a"], "categories": ["c"]}, (["a"], ["c"])),
        ({"ignore": ["b"]}, (["a"], ["c"])),
    ],
)
def test_kinds_of_columns_are_found_or_given(settings: dict[str, Any], kinds: tuple[list[str], list[str]]) -> None:
    rows = [{NAME: "x", "a": k, "b": str(k % 2), "c": "x" if k else "9", "y": k} for k in range(4)]
    if settings.get("categories") == ["b"]:
        rows = [row | {"c": row["a"]} for row in rows]
    facts = Columns(target="y", **settings).learn(rows)
    assert (list(facts["numeric"]), list(facts["categories"])) == kinds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "prize"}, "no column 'prize'. Nearest: price, size"),
        ({"target": "price", "numeric": ["sizes"]}, "no column 'sizes'. Did you mean 'size'"),
        ({"target": "colour"}, "data.target=colour is a column without numbers"),
        ({"target": "price", "numeric": ["colour"], "categories": []}, "column colour has no numbers"),
    ],
)
def test_wrong_columns_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Columns(**settings).learn([{NAME: "x", **row} for row in ROWS])


def test_rare_categories_are_one() -> None:
    facts = Columns(target="price", rare=2).learn([{NAME: "x", **row} for row in ROWS])
    assert facts["categories"] == {"colour": ["red"]}


# --- along with a model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "record"),
    [
        (Columns(target="price"), ROWS[1]),
        (Tokens(tokens="bpe", vocabulary=300, text_column="colour", label_column="size"), ROWS[1]),
    ],
)
def test_a_preparation_travels_as_plain_data(tmp_path: Path, prepare: Any, record: dict[str, str]) -> None:
    import json

    rows = [row for row in ROWS if row["size"]]
    train = dataset(tmp_path, rows, prepare)
    travelled = preparation.load(json.loads(json.dumps(train.preprocessing)))
    assert [torch.as_tensor(part).tolist() for part in travelled.item(record)] == [
        torch.as_tensor(part).tolist() for part in train[1]
    ]


def test_no_other_code_travels_along() -> None:
    with pytest.raises(TargetError, match="kind=os:system is not an allowed target"):
        preparation.load({"kind": "os:system", "parameters": {}, "facts": {}})


def test_opencv_reads_what_it_writes(tmp_path: Path) -> None:
    pixels = decode(makers.photo(tmp_path / "x.png", (200, 40, 10)).read_bytes(), 3)
    assert pixels[0, -1].tolist() == [200, 40, 10], "red comes first"
    assert cv2.imread(str(tmp_path / "x.png"))[0, -1].tolist() == [10, 40, 200]
