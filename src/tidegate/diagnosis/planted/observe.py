"""How items are observed: frames at instants and a resolution, sounds, words by language, texts, noise.

Enters: ``Items``, a ``Pipeline`` (how each item is decoded, read and heard; arrays, one entry an item) and the world's
``Codebook``. Leaves: an ``Observation``, which is all that a model sees. A short event is there only when a frame
falls into it, a small object only at a resolution that shows it, order only in several frames, words only in their
language's code. Probes and faults are changes of a ``Pipeline``; noise is fixed by item and instant, so that two
observations of an item differ by what was changed and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from tidegate.diagnosis.planted.items import (
    CHAT,
    NEWS,
    OFFER,
    SCENE_WIDTH,
    SIGHTS,
    TALK,
    THEMES,
    THREAT,
    THREAT_OK,
    TONES,
    Items,
)

__all__ = ["GRID", "Codebook", "NoiseTable", "Observation", "Pipeline", "observe"]

Array = npt.NDArray[Any]
GRID = 32
"""Instants of an item at which frames can be taken."""
HEAP = np.array([TALK, CHAT, NEWS])
"""Themes of the popular words that a title may be heaped with."""
MILD = np.where(np.arange(THEMES) == THREAT, THREAT_OK, np.where(np.arange(THEMES) == OFFER, CHAT, np.arange(THEMES)))
"""What each theme is taken for by an encoder that hears no harsh words."""
SIGHT_WIDTH, TONE_WIDTH, WORD_WIDTH = SIGHTS + SCENE_WIDTH, TONES + 6, 24
GOLD, RECOGNISED, NONE = 2, 1, 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """Directions of concepts in the observations of one world."""

    sight_CD: Array
    scene_SD: Array
    tone_AE: Array
    words_TLW: Array
    """Code of every theme in every language; the audio hears it through ``hearing_WW``."""
    hearing_WW: Array
    smear_WW: Array
    """What a poor encoder keeps of words: a projection on a fifth of the directions."""
    unusual_TLW: Array
    """Code of every theme as nobody wrote or spoke the language before."""

    @classmethod
    def of_seed(cls, seed: int) -> Codebook:
        """Random directions; look-alikes lie near what they imitate, languages share a part of each theme."""
        rng = np.random.default_rng([seed, 11])
        basis_DD = np.linalg.qr(rng.normal(size=(SIGHT_WIDTH, SIGHT_WIDTH)))[0]
        sight_CD = basis_DD[:SIGHTS].copy()
        for double, real in ((1, 0), (3, 2)):
            sight_CD[double] = 0.55 * sight_CD[real] + 0.83 * sight_CD[double]
        tone_EE = np.linalg.qr(rng.normal(size=(TONE_WIDTH, TONE_WIDTH)))[0]
        tone_AE = tone_EE[:TONES].copy()
        tone_AE[1] = 0.55 * tone_AE[0] + 0.83 * tone_AE[1]
        common_TW, own_TLW = rng.normal(size=(THEMES, WORD_WIDTH)), rng.normal(size=(THEMES, 4, WORD_WIDTH))
        common_TW[4] = 0.5 * common_TW[3] + 0.87 * common_TW[4]
        words_TLW = 0.5 * common_TW[:, None] + 0.87 * own_TLW
        words_TLW *= 2.6 / np.linalg.norm(words_TLW, axis=-1, keepdims=True)
        hearing_WW = np.linalg.qr(rng.normal(size=(WORD_WIDTH, WORD_WIDTH)))[0]
        kept_WK = hearing_WW[:, : WORD_WIDTH // 5]
        unusual_TLW = 0.35 * words_TLW / 2.6 + np.random.default_rng([seed, 13]).normal(size=words_TLW.shape) * 0.19
        unusual_TLW *= 2.6 / np.linalg.norm(unusual_TLW, axis=-1, keepdims=True)
        return cls(
            sight_CD=sight_CD, scene_SD=basis_DD[SIGHTS:], tone_AE=tone_AE, words_TLW=words_TLW,
            hearing_WW=hearing_WW, smear_WW=kept_WK @ kept_WK.T, unusual_TLW=unusual_TLW,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseTable:
    """Noise of N items, drawn once; ``other`` is that of a second encoding of the same items."""

    frames_NGD: Array
    sound_NE: Array
    words_NKW: Array
    """Of speech, title, sticker and transcript."""
    chance_NK: Array
    """Uniform: hearing, reading, recognising and translating go wrong below the rate of errors."""
    wrong_NK: Array
    """What is heard or read instead."""

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> NoiseTable:
        """A table for ``count`` items."""
        return cls(
            frames_NGD=rng.standard_normal((count, GRID, SIGHT_WIDTH), dtype=np.float32),
            sound_NE=rng.normal(size=(count, TONE_WIDTH)), words_NKW=rng.normal(size=(count, 4, WORD_WIDTH)),
            chance_NK=rng.random((count, 4)), wrong_NK=rng.integers(TALK, TALK + 3, (count, 4)),
        )  # fmt: skip

    def rows(self, rows: Array) -> NoiseTable:
        """The noise of some items."""
        return NoiseTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipeline:
    """How each of N items is decoded, read, heard and put before the model. Faults and probes change entries."""

    frames: Array
    resolution: Array
    span: Array
    """Part of the item's duration that frames are taken from, from its beginning."""
    sight_limit: Array
    """What lies further from the centre is cropped away."""
    bunched: Array
    """Moments around which frames crowd, in place of evenly; 0: evenly."""
    window: Array
    """Frames around the instant at which most happens, in place of evenly."""
    calmest: Array
    """Frames around the instant at which least happens; ``window`` goes before."""
    shuffled: Array
    tiles: Array
    noise: Array
    """Added to sights and sounds."""
    quantised: Array
    """Step of a coarse quantisation; 0 for none."""
    dropped: Array
    """Share of what frames and sounds hold that is lost in blocks."""
    clipped: Array
    """Level beyond which sights and sounds are cut off; 0: none."""
    blur: Array
    """Part of what is shown that is smoothed away, 0 to 1."""
    cleaned: Array
    hear_errors: Array
    read_errors: Array
    recognise_errors: Array
    unheard: Array
    """Share of speech that is taken for none."""
    softened: Array
    """Share of speech in which harsh words are taken for mild ones."""
    unread: Array
    """Share of on-screen texts that are not found."""
    smear: Array
    """How much of the words' code a poor encoder loses, 0 to 1."""
    accent: Array
    """How far the item's language is pronounced and spelt in another way, 0 to 1."""
    transcript: Array
    """0 none, 1 recognised, 2 true."""
    sticker_true: Array
    translated: Array
    """Texts are put into the first language."""
    audio_on: Array
    text_on: Array
    audio_from: Array
    vision_from: Array
    text_from: Array
    """Row whose audio, frames or texts are used; the item's own row otherwise."""
    policy: Array
    second_encoding: Array
    failed: Array
    """Nothing came back in time."""
    note: Array
    """What serving recorded; empty: nothing."""

    @classmethod
    def standard(cls, count: int) -> Pipeline:
        """As it should be."""
        numbers = {"frames": 8, "bunched": 0, "transcript": NONE, "policy": 1}
        reals = {
            "resolution": 1.0, "span": 1.0, "sight_limit": 1.0, "noise": 0.0, "quantised": 0.0, "dropped": 0.0,
            "clipped": 0.0, "blur": 0.0, "accent": 0.0, "hear_errors": 0.02, "read_errors": 0.02,
            "recognise_errors": 0.06, "smear": 0.0, "unheard": 0.0, "softened": 0.0, "unread": 0.0,
        }  # fmt: skip
        off = (
            "window", "calmest", "shuffled", "tiles", "cleaned", "sticker_true", "translated", "second_encoding",
            "failed",
        )  # fmt: skip
        own = np.arange(count)
        return cls(
            **{name: np.full(count, value) for name, value in (numbers | reals).items()},
            **dict.fromkeys(off, np.zeros(count, bool)), audio_on=np.ones(count, bool), text_on=np.ones(count, bool),
            audio_from=own, vision_from=own, text_from=own, note=np.full(count, "", dtype="U16"),
        )  # fmt: skip

    def with_(self, rows: Array | None = None, **changes: Any) -> Pipeline:
        """A copy in which these entries have other values, at ``rows`` (mask or indices) or everywhere."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in changes.items():
            column = columns[name].copy()
            column[slice(None) if rows is None else rows] = value
            columns[name] = column
        return Pipeline(**columns)

    def rows(self, rows: Array) -> Pipeline:
        """Entries of some items; ``..._from`` keep pointing at rows of the whole."""
        return Pipeline(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """What the models see of N items."""

    frames_NTD: Array
    there_NT: Array
    """Whether that frame was taken: items may have fewer frames than T."""
    sound_NE: Array
    words_NW: Array
    """What is heard of words; zeros without speech or audio."""
    audio_on: Array
    text_NKW: Array
    """Title, on-screen text, transcript."""
    text_on_NK: Array
    policy: Array
    region: Array
    surface: Array

    def rows(self, rows: Array) -> Observation:
        """Some of the items."""
        return Observation(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __len__(self) -> int:
        return len(self.policy)


def observe(
    book: Codebook, items: Items, pipeline: Pipeline, tables: tuple[NoiseTable, NoiseTable], rows: Array
) -> Observation:
    """Observe the items at ``rows``. ``pipeline`` has an entry for each item of ``items``, not only for ``rows``."""
    here = pipeline.rows(rows)
    frames_NTD, there_NT = _frames(book, items, here, tables)
    sound_NE, words_NW = _sounds(book, items, here, tables)
    text_NKW, text_on_NK = _texts(book, items, here, tables, rows)
    return Observation(
        frames_NTD=frames_NTD, there_NT=there_NT, sound_NE=sound_NE, words_NW=words_NW, audio_on=here.audio_on,
        text_NKW=text_NKW, text_on_NK=text_on_NK, policy=here.policy, region=items.region[rows],
        surface=items.surface[rows],
    )  # fmt: skip


def _noise_of(here: Pipeline, tables: tuple[NoiseTable, NoiseTable], name: str, rows: Array) -> Array:
    first, second = (getattr(table, name)[rows] for table in tables)
    chosen = here.second_encoding.reshape(-1, *[1] * (first.ndim - 1))
    noise: Array = np.where(chosen, second, first)
    return noise


def _corrupted(values: Array, noise: Array, level: Array, here: Pipeline) -> Array:
    """Noise, quantisation, lost blocks, cut peaks; cleaning takes most of it away, and a little of the signal."""
    shape = (-1, *[1] * (values.ndim - 1))
    left, kept = np.where(here.cleaned, 0.3, 1.0).reshape(shape), np.where(here.cleaned, 0.97, 1.0).reshape(shape)
    noisy = kept * values + noise * np.sqrt(0.1 + (level.reshape(shape) * left) ** 2)
    step = here.quantised.reshape(shape) * left
    steps = np.where(step > 0, step, 1.0)
    found: Array = np.where(step > 0, np.round(noisy / steps) * steps, noisy).astype(np.float32)
    if here.dropped.any():
        found = np.where(special.ndtr(noise) < here.dropped.reshape(shape) * left, np.float32(0), found)
    if here.clipped.any():
        most = np.where(here.clipped > 0, here.clipped, np.inf).reshape(shape) / left
        found = np.clip(found, -most, most).astype(np.float32)
    return found


def _sight(book: Codebook, items: Items, here: Pipeline, grid_NT: Array, noise_NTD: Array) -> Array:
    rows = here.vision_from
    instant_NT1 = ((grid_NT + 0.5) / GRID)[:, :, None]
    there_NTC = (items.start_NC[rows][:, None] <= instant_NT1) & (instant_NT1 < items.end_NC[rows][:, None])
    detail = items.size[rows] * here.resolution * np.where(here.tiles, 2.0, 1.0)
    visible = 1 / (1 + np.exp(-25 * (detail - 0.2)))
    visible *= (items.place[rows] <= here.sight_limit) | (items.size[rows] == 1.0) | here.tiles
    strength_NC = items.sight_NC[rows] * 2.4 * np.where(np.arange(SIGHTS) == 7, 1.0, visible[:, None])
    strength_NC *= 1 - (here.blur * np.where(here.cleaned, 0.3, 1.0))[:, None]
    clear_NTD = (there_NTC * strength_NC[:, None]) @ book.sight_CD
    clear_NTD = clear_NTD + (items.scene_ND[rows] @ book.scene_SD)[:, None]
    return _corrupted(clear_NTD, noise_NTD, items.noise[rows] + here.noise, here)


def _instants(here: Pipeline, energy_NG: Array | None) -> tuple[Array, Array]:
    """Indices of the grid at which frames are taken, and which of them count."""
    most = int(here.frames.max())
    number_NT = np.broadcast_to(np.arange(most), (len(here.frames), most))
    even = (number_NT + 0.5) / here.frames[:, None] * GRID * here.span[:, None]
    grid_NT = np.minimum(np.floor(even).astype(np.int64), GRID - 1)
    if here.bunched.any():
        moments = np.maximum(here.bunched, 1)[:, None]
        each = np.maximum(here.frames[:, None] // moments, 1)
        moment_NT = np.minimum(number_NT // each, moments - 1)
        crowd = np.floor((moment_NT + 0.5) / moments * GRID).astype(np.int64) + number_NT % each
        grid_NT = np.where(here.bunched[:, None] > 0, np.minimum(crowd, GRID - 1), grid_NT)
    if energy_NG is not None:
        first = np.clip(energy_NG.argmax(1) - here.frames // 2, 0, GRID - here.frames)
        still = np.clip(energy_NG.argmin(1) - here.frames // 2, 0, GRID - here.frames)
        first, picked = np.where(here.window, first, still), here.window | here.calmest
        grid_NT = np.where(picked[:, None], np.minimum(first[:, None] + number_NT, GRID - 1), grid_NT)
    return grid_NT, number_NT < here.frames[:, None]


def _frames(
    book: Codebook, items: Items, here: Pipeline, tables: tuple[NoiseTable, NoiseTable]
) -> tuple[Array, Array]:
    rows = here.vision_from
    noise_NGD = _noise_of(here, tables, "frames_NGD", rows)
    energy_NG = None
    if (here.window | here.calmest).any():
        all_NG = np.broadcast_to(np.arange(GRID), (len(rows), GRID))
        seen_NGD = _sight(book, items, here, all_NG, noise_NGD)
        change_NG = np.linalg.norm(seen_NGD - seen_NGD.mean(1, keepdims=True), axis=-1)
        energy_NG = change_NG + np.roll(change_NG, 1, 1) + np.roll(change_NG, -1, 1)
    grid_NT, there_NT = _instants(here, energy_NG)
    noise_NTD = np.take_along_axis(noise_NGD, grid_NT[:, :, None], axis=1)
    frames_NTD = _sight(book, items, here, grid_NT, noise_NTD)
    if here.shuffled.any():
        order_NT = np.where(there_NT, np.modf(np.sin(grid_NT * 91.7 + rows[:, None]) * 4375.5)[0], np.inf).argsort(1)
        order_NT = np.where(here.shuffled[:, None], order_NT, np.arange(grid_NT.shape[1]))
        frames_NTD = np.take_along_axis(frames_NTD, order_NT[:, :, None], axis=1)
    return frames_NTD * there_NT[:, :, None], there_NT


def _sounds(
    book: Codebook, items: Items, here: Pipeline, tables: tuple[NoiseTable, NoiseTable]
) -> tuple[Array, Array]:
    rows = here.audio_from
    level = 1.3 * (items.noise[rows] + here.noise) + items.wind[rows]
    clear_NE = 2.6 * items.tone_NA[rows] @ book.tone_AE
    sound_NE = _corrupted(clear_NE, _noise_of(here, tables, "sound_NE", rows), level, here)
    chance_N = _noise_of(here, tables, "chance_NK", rows)[:, 0]
    heard = np.where(chance_N < here.hear_errors, _noise_of(here, tables, "wrong_NK", rows)[:, 0], items.speech[rows])
    heard = np.where(1 - chance_N < here.softened, MILD[heard], heard)
    code_NW = _words(book, heard, items.language[rows], items.dialect[rows])
    code_NW = _accented(code_NW, here.accent) @ book.hearing_WW
    code_NW = code_NW - here.smear[:, None] * (code_NW - code_NW @ book.smear_WW)
    words_NW = _corrupted(code_NW, _noise_of(here, tables, "words_NKW", rows)[:, 0], level, here)
    on = here.audio_on[:, None]
    spoken = (items.speech[rows] >= 0) & (1 - chance_N >= here.unheard)
    return sound_NE * on, words_NW * (on & spoken[:, None])


def _words(book: Codebook, theme: Array, language: Array, unusual: Array) -> Array:
    """Codes of words, some of them not as the language was written or spoken so far."""
    share = unusual[..., None]
    codes: Array = (1 - share) * book.words_TLW[theme, language] + share * book.unusual_TLW[theme, language]
    return codes


def _accented(words: Array, accent: Array) -> Array:
    """Words of another pronunciation or spelling: a part of their code stands elsewhere."""
    if not accent.any():
        return words
    part = accent[..., None]
    changed: Array = (1 - part) * words + part * np.roll(words, 5, axis=-1)
    return changed


def _texts(
    book: Codebook, items: Items, here: Pipeline, tables: tuple[NoiseTable, NoiseTable], rows: Array
) -> tuple[Array, Array]:
    """Title, on-screen text as read, transcript as recognised; a swapped text leaves the transcript as it is."""
    source = here.text_from
    chance_NK, wrong_NK = (_noise_of(here, tables, name, source) for name in ("chance_NK", "wrong_NK"))
    noise_NKW = _noise_of(here, tables, "words_NKW", source)
    left = np.where(here.cleaned, 0.3, 1.0)
    corrupt = items.noise[source] + left * (here.noise + 0.5 * here.quantised + here.blur)
    print_size = items.print_size[source] * here.resolution * np.where(here.tiles, 2.0, 1.0)
    # Text of size 1 is read at any resolution; smaller text is read where the resolution shows it.
    illegible = (items.print_size[source] < 1) & (1 - chance_NK[:, 1] > 1 / (1 + np.exp(-25 * (print_size - 0.2))))
    misread = ((chance_NK[:, 1] < here.read_errors + 0.08 * corrupt) | illegible) & ~here.sticker_true
    read = np.where(misread & (items.sticker[source] >= 0), wrong_NK[:, 1], items.sticker[source])
    read = np.where((1 - chance_NK[:, 1] < here.unread) & ~here.sticker_true, -1, read)
    windy = left * items.wind[rows]
    misheard = (chance_NK[:, 2] < here.recognise_errors + 0.1 * (corrupt + windy)) & (here.transcript == RECOGNISED)
    spoken = np.where(here.transcript == NONE, -1, items.speech[rows])
    spoken = np.where(misheard & (spoken >= 0), wrong_NK[:, 2], spoken)
    language = np.column_stack([items.language[source], items.language[source], items.language[rows]])
    translated = here.translated[:, None] & (chance_NK[:, 3:] > 0.03)
    theme_NK = np.column_stack([items.title[source], read, spoken])
    unusual_NK = np.column_stack([items.script[source], items.script[source], items.dialect[rows]])
    code_NKW = _words(book, theme_NK, np.where(translated, 0, language), np.where(translated, 0, unusual_NK))
    code_NKW = _accented(code_NKW, np.where(translated, 0.0, here.accent[:, None]))
    code_NKW[:, 0] += items.tags[source][:, None] * book.words_TLW[HEAP, items.language[source][:, None]].sum(1)
    code_NKW = code_NKW + 0.25 * noise_NKW[:, 1:]
    on_NK = (theme_NK >= 0) & np.column_stack([here.text_on, here.text_on, np.ones(len(rows), bool)])
    return (code_NKW * on_NK[:, :, None]).astype(np.float32), on_NK
