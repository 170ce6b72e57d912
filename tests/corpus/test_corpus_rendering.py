"""Text, speech, sounds and pictures: every script has its glyphs, every language its voice, and all repeats exactly."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
import uharfbuzz
from PIL import Image, ImageDraw

from tidegate.corpus.synthetic import SyntheticConfig, lexicon
from tidegate.corpus.synthetic.acts import Stage, draw_act, event_shares
from tidegate.corpus.synthetic.figures import Body
from tidegate.corpus.synthetic.picture import compose
from tidegate.corpus.synthetic.plan import VideoPlan, plan_video, sources_of
from tidegate.corpus.synthetic.sounds import ALARMING, HARMLESS, sound
from tidegate.corpus.synthetic.soundtrack import mix
from tidegate.corpus.synthetic.speech import SAMPLE_RATE_HZ, VARIANTS, Voice, speak
from tidegate.corpus.synthetic.sprites import CLUTTER, FOR_SALE, TOYS_AND_TOOLS, WEAPONS, sprite
from tidegate.corpus.synthetic.typeset import draw_line, draw_wrapped
from tidegate.errors import DependencyMissing, UsageError

LANGUAGES = sorted(lexicon())
THEMES = ("threat", "threat_ok", "goods", "goods_ok", "offer", "benign")


_OF_ONE_EVENT = ((150, 200, 235), (255, 170, 30), (30, 110, 50), (160, 160, 165))
"""Drops of the can, flame, bottle, hub cap."""


def _colours_of_act(act: str, share: float, *, backwards: bool) -> tuple[bool, ...]:
    image = Image.new("RGB", (180, 180))
    body = Body(skin=(9, 9, 9), shirt=(9, 9, 9), trousers=(9, 9, 9), hair=(9, 9, 9), stature=1.0)
    canvas = ImageDraw.Draw(image)
    stage = Stage(canvas=canvas, width=180, ground=170, tall=110, body=body, colour=(9, 9, 200))
    draw_act(stage, act, share, backwards=backwards)
    pixels = np.asarray(image)
    return tuple(bool((pixels == colour).all(axis=2).any()) for colour in _OF_ONE_EVENT)


def plans(count: int, seed: int = 9) -> list[VideoPlan]:
    config = SyntheticConfig(out="unused", videos=count, seed=seed, prevalence=0.5)
    return [plan_video(config, index, source) for index, (source, _) in enumerate(sources_of(config))]


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_font_of_a_script_draws_every_phrase_without_a_missing_glyph(code: str) -> None:
    """After shaping, since shapers take letters apart and put others together."""
    language = lexicon()[code]
    name = {"Cyrl": "Latn", "Grek": "Latn"}.get(language.script, language.script)
    data = files("tidegate.corpus.synthetic").joinpath("fonts", f"{name}.ttf").read_bytes()
    font = uharfbuzz.Font(uharfbuzz.Face(data))
    for line in [*(line for theme in THEMES for line in language.phrases(theme)), language.news]:
        buffer = uharfbuzz.Buffer()
        buffer.add_str(line)
        buffer.guess_segment_properties()
        uharfbuzz.shape(font, buffer)
        missing = [line[info.cluster] for info in buffer.glyph_infos if info.codepoint == 0]
        assert not missing, line


def test_arabic_is_joined_and_runs_from_right_to_left() -> None:
    word, letters = draw_line("أسلحة", "Arab", 40), [draw_line(letter, "Arab", 40) for letter in "أسلحة"]
    assert word.shape[1] < 0.9 * sum(letter.shape[1] for letter in letters)
    alef_first = draw_line("اسسس", "Arab", 40)
    columns = (alef_first > 128).sum(axis=0)
    assert columns[-8:].max() > columns[:8].max(), "the tall first letter stands at the right"


def test_devanagari_builds_conjuncts() -> None:
    joined, apart = draw_line("प्र", "Deva", 40), draw_line("पर", "Deva", 40)
    assert joined.shape[1] < 0.8 * apart.shape[1]


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_wrapped_text_fits_its_width(code: str) -> None:
    language = lexicon()[code]
    for line in (language.goods_ok[0], language.benign[3]):
        mask = draw_wrapped(line, language.script, 20, 150)
        assert mask.shape[1] <= 150
        assert (mask > 128).sum() > 100, "there is ink"


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_has_a_voice_that_tells_its_phrases_apart(code: str) -> None:
    language = lexicon()[code]
    spoken = [speak(line, language.voice, Voice()) for line in (*language.threat, *language.benign[:2])]
    assert all(0.5 < len(samples) / SAMPLE_RATE_HZ < 4.5 for samples in spoken)
    assert len({samples.tobytes() for samples in spoken}) == len(spoken)


def test_speech_repeats_exactly_whatever_was_said_before() -> None:
    lines = [(lexicon()[code], variant) for code, variant in zip(LANGUAGES, VARIANTS * 3, strict=False)]
    heard: dict[int, set[bytes]] = {}
    order = list(range(len(lines))) * 3
    random.Random(1).shuffle(order)
    for number in order:
        language, variant = lines[number]
        samples = speak(language.threat[0], language.voice, Voice(variant=variant))
        heard.setdefault(number, set()).add(samples.tobytes())
    assert {len(versions) for versions in heard.values()} == {1}


def test_an_unknown_voice_is_an_error() -> None:
    with pytest.raises(UsageError, match="xx-none"):
        speak("hello", "xx-none", Voice())


@pytest.mark.parametrize("module", ["espeakng_loader", "uharfbuzz"])
def test_a_missing_extra_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyMissing, match=r"tidegate\[corpus\]"):
        speak("hello", "en", Voice()) if module == "espeakng_loader" else draw_line("hello", "Latn", 12)


@pytest.mark.parametrize("name", [*ALARMING, *HARMLESS])
def test_a_sound_is_finite_peaks_at_one_and_repeats(name: str) -> None:
    for seed in range(8):
        samples = sound(name, np.random.default_rng(seed))
        assert np.isfinite(samples).all()
        assert float(np.abs(samples).max()) == pytest.approx(1.0)
        assert np.array_equal(samples, sound(name, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", [*WEAPONS, *TOYS_AND_TOOLS, *FOR_SALE, *CLUTTER])
def test_a_sprite_has_ink_from_the_smallest_size_that_occurs(name: str) -> None:
    for width in (14, 20, 100):
        alpha = np.asarray(sprite(name, width, np.random.default_rng(1)))[:, :, 3]
        assert (alpha > 128).sum() >= width / 2


def test_pictures_and_soundtracks_repeat_exactly() -> None:
    for plan in plans(6):
        first, second = list(compose(plan).frames()), list(compose(plan).frames())
        assert np.array_equal(np.stack(first), np.stack(second))
        assert np.array_equal(mix(plan).audio.samples, mix(plan).audio.samples)


def test_sound_is_as_long_as_the_picture_and_never_clips() -> None:
    for plan in plans(12):
        track = mix(plan)
        assert track.audio.duration_seconds == pytest.approx(plan.duration_seconds, abs=1e-3)
        assert float(np.abs(track.audio.samples).max()) < 1.0


def test_evidence_lies_inside_its_box() -> None:
    """Draw a weapon's video with and without the weapon: what changes lies in the box, give or take its sway."""
    found = 0
    for plan in plans(80):
        if plan.kind not in ("visual_object", "small_object"):
            continue
        quiet = dataclasses.replace(plan, sticker=None, noise=dataclasses.replace(plan.noise, blur_pixels=0.0))
        picture = compose(quiet)
        bare = dataclasses.replace(picture, front=tuple(layer for layer in picture.front if not layer.evidence))
        (evidence,) = picture.evidence()
        start, end = evidence["span"]
        inside = int((start + end) / 2 * 12)
        with_it, without = list(picture.frames()), list(bare.frames())
        changed = np.any(with_it[inside] != without[inside], axis=2)
        rows, columns = np.nonzero(changed)
        x, y, wide, high = evidence["box"]
        assert rows.min() >= y * plan.height - 4
        assert rows.max() <= (y + high) * plan.height + 4
        assert columns.min() >= x * plan.width - 4
        assert columns.max() <= (x + wide) * plan.width + 4
        before = [np.array_equal(a, b) for a, b in zip(with_it, without, strict=True)][: int(start * 12)]
        assert all(before), "nothing is there before its span"
        found += 1
    assert found >= 5


@pytest.mark.parametrize("act", ["drink_drive", "pour_ignite"])
def test_both_orders_of_an_act_show_the_same_events_for_the_same_time(act: str) -> None:
    forwards, backwards = (event_shares(act, backwards=flag) for flag in (False, True))
    length = {name: end - start for name, (start, end) in forwards.items()}
    assert length == pytest.approx({name: end - start for name, (start, end) in backwards.items()})
    assert list(forwards) == list(reversed(backwards))


@pytest.mark.parametrize("act", ["drink_drive", "pour_ignite"])
def test_no_single_frame_tells_the_order_of_an_act(act: str) -> None:
    """Both directions show the same kinds of frames equally often: by the colours that only one event has."""
    seen = [
        Counter(_colours_of_act(act, (step + 0.5) / 200, backwards=flag) for step in range(200))
        for flag in (False, True)
    ]
    assert seen[0] == seen[1]
    assert len(seen[0]) >= 3
