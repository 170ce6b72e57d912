"""Synthetic speech and sounds with their texts, for audio alignment: what is said, in 33 languages, and what is heard.

Enters: a ``SpeechConfig``. Leaves: ``Heard`` items and their features, kept in a folder. Sentences are the lexicon's,
and, in languages written with spaces, new orders of their words; no speaker of the test is heard in training. Speech
by espeak-ng, sounds as in the synthetic corpus: both are ours to give away, and the transcript is exact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.corpus.synthetic.lexicon import Language, lexicon
from tidegate.corpus.synthetic.sounds import ALARMING, HARMLESS, ambience, sound
from tidegate.corpus.synthetic.speech import SAMPLE_RATE_HZ, VARIANTS, Voice, speak
from tidegate.errors import ConfigError, TidegateError
from tidegate.models.batch import ClipFeatures
from tidegate.models.processor import ClipProcessor
from tidegate.training.features import FailedVideo, FeatureTable, Progress, open_table, write_table
from tidegate.types import AudioChunk, Clip, Span

__all__ = ["TASKS", "UNSPACED", "Heard", "SpeechConfig", "heard_items", "speech_table", "texts_of"]

Task = Literal["transcribe", "describe"]
TASKS: tuple[Task, ...] = ("transcribe", "describe")
UNSPACED = frozenset({"zh", "ja", "th"})
"""Languages written without spaces: their errors are counted in characters."""
_THEMES = ("threat", "threat_ok", "goods", "goods_ok", "offer", "benign")
_TEST_SPEAKERS = ("m8", "f4", "Annie")


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """What is spoken and played."""

    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the lexicon; empty: all 33."""
    utterances: int = 4_000
    """Spoken items, dealt over the languages in turn."""
    sounds: int = 400
    """Sounds without speech."""
    new_orders: float = 0.5
    """Share of sentences that are new orders of two to four words; the rest is the lexicon's."""
    test_each: int = 8
    """Test items of each language, by other speakers; half of them new orders. As many of each sound."""
    seed: int = 11
    """Of sentences, speakers, loudness and noise."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.languages) - set(lexicon()))
        if unknown or self.utterances < 1 or self.sounds < 0 or self.test_each < 1:
            raise ConfigError(
                f"expected languages among {sorted(lexicon())} and counts of at least 1, got "
                f"{unknown or self.languages}, {self.utterances} utterances, {self.sounds} sounds, "
                f"{self.test_each} test items"
            )

    @property
    def codes(self) -> tuple[str, ...]:
        """The languages spoken."""
        return self.languages or tuple(sorted(lexicon()))


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One item: what is to be heard, and what is to be written."""

    item_id: str
    task: Task
    text: str
    """Transcript, or the name of the sound."""
    language: str | None
    """ISO 639-1; None of a sound."""
    new_order: bool
    """Whether its sentence is in no lexicon."""
    speaker: str
    """espeak-ng variant; the sound's own name of a sound."""
    seed: int


def _sentence(language: Language, new_order: bool, rng: np.random.Generator) -> str:
    phrases = [phrase for theme in _THEMES for phrase in language.phrases(theme)]
    if not new_order:
        return phrases[int(rng.integers(len(phrases)))]
    words = sorted({word.strip(",.!?¿¡،।፣") for phrase in phrases for word in phrase.split()} - {""})
    return " ".join(rng.choice(words, size=int(rng.integers(2, 5)), replace=False).tolist())


def _spoken(config: SpeechConfig, number: int, code: str, new_order: bool, speakers: Sequence[str]) -> Heard:
    rng = np.random.default_rng([config.seed, number])
    new_order = new_order and code not in UNSPACED
    return Heard(
        item_id=f"speech-{config.seed}-{number}",
        task="transcribe",
        text=_sentence(lexicon()[code], new_order, rng),
        language=code,
        new_order=new_order,
        speaker=speakers[int(rng.integers(len(speakers)))],
        seed=int(rng.integers(2**31)),
    )


def heard_items(config: SpeechConfig, part: Literal["train", "test"]) -> list[Heard]:
    """The items of one part; speech and sounds are mixed at random in training."""
    codes, names = config.codes, (*ALARMING, *HARMLESS)
    if part == "test":
        spoken = [
            _spoken(config, 1_000_000 + number, code, bool(k % 2), _TEST_SPEAKERS)
            for number, (code, k) in enumerate((code, k) for code in codes for k in range(config.test_each))
        ]
        played = [(name, 2_000_000 + number) for number, name in enumerate(names * config.test_each)]
        return [*spoken, *(_played(config, name, number) for name, number in played)]
    rng = np.random.default_rng(config.seed)
    speakers = [name for name in VARIANTS if name not in _TEST_SPEAKERS]
    orders = rng.random(config.utterances) < config.new_orders
    items = [
        _spoken(config, number, codes[number % len(codes)], bool(orders[number]), speakers)
        for number in range(config.utterances)
    ]
    items += [_played(config, names[k % len(names)], 500_000 + k) for k in range(config.sounds)]
    return [items[place] for place in rng.permutation(len(items))]


def _played(config: SpeechConfig, name: str, number: int) -> Heard:
    return Heard(
        item_id=f"sound-{config.seed}-{number}",
        task="describe",
        text=name.replace("_", " "),
        language=None,
        new_order=False,
        speaker=name,
        seed=number + 7 * config.seed,
    )


def _samples(item: Heard) -> npt.NDArray[np.float32]:
    """The item's sound, with a little room tone, at its own loudness."""
    rng = np.random.default_rng(item.seed)
    if item.language is None:
        clean = sound(item.speaker, rng)
    else:
        voice = Voice(
            variant=item.speaker,
            words_per_minute=int(rng.integers(150, 210)),
            pitch=int(rng.integers(30, 71)),
            pitch_range=int(rng.integers(35, 66)),
        )
        clean = speak(item.text, lexicon()[item.language].voice, voice)
    clean = clean / max(1e-6, float(np.abs(clean).max()))
    room = ambience(rng, len(clean) / SAMPLE_RATE_HZ + 0.1)[: len(clean)]
    mixed = float(rng.uniform(0.3, 0.8)) * (clean + float(rng.uniform(0.002, 0.03)) * room)
    return np.ascontiguousarray(mixed, dtype=np.float32)


def speech_table(
    items: Sequence[Heard], processor: ClipProcessor, cache: Path, *, progress: Progress | None = None
) -> tuple[list[Heard], FeatureTable]:
    """The items by row, and their features without texts: from the folder ``cache`` if they are there, else spoken.

    An item that espeak-ng cannot speak (some voices crash on some words) is left out, and named in ``failed``.
    """
    heard = ClipProcessor(replace(processor.config, modalities=("audio",), video_tokens_per_frame=0), None)
    key = json.dumps([heard.fingerprint, [dataclasses.asdict(item) for item in items]], sort_keys=True)
    folder = cache / f"speech-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if (folder / "done.json").exists():
        return _by_row(items, open_table(folder, from_cache=True))

    def results() -> Iterator[tuple[str, ClipFeatures | FailedVideo]]:
        for item in items:
            try:
                samples = _samples(item)
            except TidegateError as error:
                yield item.item_id, FailedVideo(video_id=item.item_id, code=error.code, reason=str(error))
                continue
            chunk = AudioChunk(samples=samples, sample_rate_hz=SAMPLE_RATE_HZ)
            span = Span(0.0, len(samples) / SAMPLE_RATE_HZ)
            clip = Clip(video_id=item.item_id, span=span, frames=None, audio=chunk)
            yield item.item_id, heard.features([clip])[0]

    cache.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
    write_table(results(), len(items), heard, fresh, progress=progress)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
    return _by_row(items, open_table(folder, from_cache=False))


def _by_row(items: Sequence[Heard], table: FeatureTable) -> tuple[list[Heard], FeatureTable]:
    item_of = {item.item_id: item for item in items}
    return [item_of[item_id] for item_id in table.video_ids], table


def texts_of(config: SpeechConfig) -> list[str]:
    """All texts that may have to be written, for a vocabulary."""
    spoken = [phrase for code in config.codes for theme in _THEMES for phrase in lexicon()[code].phrases(theme)]
    return [*spoken, *(name.replace("_", " ") for name in (*ALARMING, *HARMLESS))]
