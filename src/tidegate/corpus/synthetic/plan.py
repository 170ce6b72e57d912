"""What each video will show, say and carry, decided before a pixel is drawn.

Enters: configuration and index. Leaves: a ``VideoPlan``, plain data. Why apart from rendering: labels and evidence
can be tested on thousands of plans in a second, and rendering cannot change a label. Every channel (picture, action,
sticker, title, speech, sound) is filled the same way in both classes and may hold look-alikes; a violating video then
gets exactly one piece of violating evidence in one channel, so that the presence of a channel, or of a look-alike,
tells nothing. Randomness: PCG64 seeded by (seed, stream, index); nothing depends on the order in which videos are
made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tidegate.corpus.synthetic.clauses import EVIDENCE_KINDS, EvidenceKind
from tidegate.corpus.synthetic.config import CORPUS_VERSION, SyntheticConfig
from tidegate.corpus.synthetic.figures import BENIGN_PAIRS, BENIGN_SOLOS, VIOLENT_PAIRS
from tidegate.corpus.synthetic.lexicon import CLAUSE_OF_THEME, Language, lexicon
from tidegate.corpus.synthetic.regions import draw_region
from tidegate.corpus.synthetic.sounds import ALARMING, HARMLESS
from tidegate.corpus.synthetic.speech import VARIANTS, Voice
from tidegate.corpus.synthetic.sprites import CLUTTER, FOR_SALE, TOYS_AND_TOOLS, WEAPONS

__all__ = [
    "ACTS",
    "Noise",
    "Phrase",
    "Source",
    "Thing",
    "VideoPlan",
    "neutral_id",
    "phrase",
    "plan_video",
    "rng_of",
    "sources_of",
]

ACTS = ("drink_drive", "pour_ignite")
"""Acts of two events; told forwards they break ``dangerous_acts``, backwards they do not."""
SCENES = ("room", "street", "grass", "texture", "kitchen", "stage")
_SIZES = ((180, 320), (180, 320), (180, 320), (320, 180), (320, 180), (240, 240))
_FLOURISHES = ("", "", "", "!", " #fyp", " #vlog", " ...", " 2", " (part 1)", " 😂", " ❤", " HD")
"""Ends of titles, alike for both classes."""
_STREAMS = {"source": 1, "video": 2, "copy": 3}


def rng_of(seed: int, stream: str, *index: int) -> np.random.Generator:
    """The generator of one source, video or part of it; the same whenever and wherever it is asked for."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAMS[stream], *index])))


def _one_of(rng: np.random.Generator, options: Any) -> Any:
    options = tuple(options)
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A line of the lexicon."""

    theme: str
    line: int
    text: str
    language: str
    script: str


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A sprite in the picture."""

    name: str
    share: float
    """Width over the frame's long edge."""
    x: float
    """Centre, over the frame's width."""
    y: float
    """Centre, over the frame's height."""
    start: float = 0.0
    """When it appears, over the video's duration."""
    end: float = 1.0
    """When it goes, over the video's duration."""
    evidence: bool = False


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Disturbances that do not change the label."""

    crf: int = 24
    """x264 quality; above 32 the picture breaks up."""
    blur_pixels: float = 0.0
    shaky: bool = False
    loud_music: bool = False
    """Music as loud as the speech."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the two to four videos of one source share: place, people, voice, tune. Splits keep a source together."""

    number: int
    source_id: str
    creator: str
    region: str
    language: str
    scene: str
    scene_seed: int
    voice: Voice
    kind: EvidenceKind
    """What this source's videos tend to be about."""


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """One video before it is rendered."""

    video_id: str
    index: int
    seed: int
    source: Source
    label: int
    kind: EvidenceKind | None
    """Kind of the violating evidence; None in a harmless video."""
    look_alike: str | None
    """Kind that a harmless video imitates."""
    width: int
    height: int
    duration_seconds: float
    views: int
    noise: Noise
    title: Phrase
    sticker: Phrase | None = None
    sticker_in_metadata: bool = False
    sticker_stay: tuple[float, float] = (0.0, 1.0)
    """When the sticker is up, over the video's duration."""
    speech: Phrase | None = None
    sound: str | None = None
    action: str | None = None
    """A solo or a pair of figures; None for nobody."""
    act: str | None = None
    """``drink_drive`` or ``pour_ignite``."""
    act_backwards: bool = False
    things: tuple[Thing, ...] = ()
    lower_third: str | None = None
    """``news`` or ``name``."""
    music: bool = False
    clause: str | None = None
    conjunction_channel: str | None = None
    """Where the words of a conjunction are: ``speech``, ``sticker`` or ``title``."""


def sources_of(config: SyntheticConfig) -> list[tuple[Source, int]]:
    """The source of every video, and the video's place in it."""
    places: list[tuple[Source, int]] = []
    number = 0
    while len(places) < config.videos:
        rng = rng_of(config.seed, "source", number)
        size = int(rng.integers(2, 5))
        source = _source(config, number, rng)
        places.extend((source, place) for place in range(size))
        number += 1
    return places[: config.videos]


def neutral_id(*parts: object, length: int = 16) -> str:
    """A random-looking name that tells nothing of what it names."""
    return hashlib.sha256("/".join(map(str, ("tidegate", CORPUS_VERSION, *parts))).encode()).hexdigest()[:length]


def _source(config: SyntheticConfig, number: int, rng: np.random.Generator) -> Source:
    region, language = draw_region(rng, config.regions)
    voice = Voice(
        variant=_one_of(rng, VARIANTS),
        words_per_minute=int(rng.integers(145, 200)),
        pitch=int(rng.integers(25, 76)),
        pitch_range=int(rng.integers(30, 80)),
    )
    return Source(
        number=number,
        source_id="s" + neutral_id(config.task, config.seed, "source", number, length=10),
        creator="u" + neutral_id(config.task, config.seed, "creator", number // 2, length=8),
        region=region,
        language=language,
        scene=_one_of(rng, SCENES),
        scene_seed=int(rng.integers(2**31)),
        voice=voice,
        kind=_draw_kind(rng),
    )


def _draw_kind(rng: np.random.Generator) -> EvidenceKind:
    kinds, shares = tuple(EVIDENCE_KINDS), np.array(tuple(EVIDENCE_KINDS.values()))
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def plan_video(config: SyntheticConfig, index: int, source: Source) -> VideoPlan:
    """Decide everything about video ``index``."""
    rng = rng_of(config.seed, "video", index)
    label = int(np.floor((index + 1) * config.prevalence + 0.5) - np.floor(index * config.prevalence + 0.5))
    kind = source.kind if rng.random() < 0.6 else _draw_kind(rng)
    imitates = kind if not label and rng.random() < config.look_alike_share else None
    width, height = _one_of(rng, _SIZES)
    plan = VideoPlan(
        video_id=neutral_id(config.task, config.seed, "video", index),
        index=index,
        seed=config.seed,
        source=source,
        label=label,
        kind=kind if label else None,
        look_alike=imitates,
        width=width,
        height=height,
        duration_seconds=round(float(rng.uniform(4.0, 6.0)) * 12) / 12,
        views=int(10 ** rng.normal(2.8, 1.1)),
        noise=_noise(config, rng),
        title=_filler_phrase(rng, source),
    )
    plan = _filled(plan, rng)
    if label:
        plan = _EVIDENCE[kind](plan, rng)
    elif imitates is not None:
        plan = _LOOK_ALIKE[imitates](plan, rng)
    return replace(plan, title=replace(plan.title, text=plan.title.text + _one_of(rng, _FLOURISHES)))


def _noise(config: SyntheticConfig, rng: np.random.Generator) -> Noise:
    plain = Noise(crf=int(rng.integers(22, 28)))
    if rng.random() >= config.noise_share:
        return plain
    noise: Noise = _one_of(
        rng,
        (
            replace(plain, crf=int(rng.integers(33, 39))),
            replace(plain, blur_pixels=float(rng.uniform(0.8, 2.0))),
            replace(plain, shaky=True),
            replace(plain, loud_music=True),
        ),
    )
    return noise


def phrase(rng: np.random.Generator, language: Language, theme: str) -> Phrase:
    """A random line of one theme."""
    lines = language.phrases(theme)
    line = int(rng.integers(len(lines)))
    return Phrase(theme=theme, line=line, text=lines[line], language=language.code, script=language.script)


def _filler_phrase(rng: np.random.Generator, source: Source, themes: tuple[str, ...] | None = None) -> Phrase:
    theme = "benign" if rng.random() < 0.7 else _one_of(rng, ("threat_ok", "goods_ok", "offer"))
    return phrase(rng, lexicon()[source.language], theme if themes is None else _one_of(rng, themes))


def _filled(plan: VideoPlan, rng: np.random.Generator) -> VideoPlan:
    """Every channel with harmless content, look-alikes included, alike for both classes."""
    things = [_thing(rng, _one_of(rng, CLUTTER)) for _ in range(int(rng.integers(0, 3)))]
    if rng.random() < 0.15:
        things.append(_thing(rng, _one_of(rng, TOYS_AND_TOOLS), share=_thing_share(rng)))
    if rng.random() < 0.12:
        things.append(_thing(rng, _one_of(rng, FOR_SALE), share=_thing_share(rng)))
    has_act = rng.random() < 0.1
    has_action = not has_act and rng.random() < 0.8
    sticker = _filler_phrase(rng, plan.source) if rng.random() < 0.5 else None
    plan = replace(
        plan,
        things=tuple(things),
        act=_one_of(rng, ACTS) if has_act else None,
        act_backwards=True,
        action=_one_of(rng, BENIGN_SOLOS if rng.random() < 0.55 else BENIGN_PAIRS) if has_action else None,
        sticker=sticker,
        sticker_in_metadata=rng.random() < 0.5,
        sticker_stay=_stay(rng),
        speech=_filler_phrase(rng, plan.source) if rng.random() < 0.65 else None,
        sound=_one_of(rng, HARMLESS) if rng.random() < 0.5 else None,
        lower_third=_one_of(rng, ("news", "name")) if rng.random() < 0.3 else None,
        music=plan.noise.loud_music or rng.random() < 0.4,
    )
    return _without_accidents(plan, rng)


def _without_accidents(plan: VideoPlan, rng: np.random.Generator) -> VideoPlan:
    """An offer and something for sale never meet by chance: one of the two is dropped."""
    if not any(thing.name in FOR_SALE for thing in plan.things) or not offers_of(plan):
        return plan
    if rng.random() < 0.5:
        return replace(plan, things=tuple(thing for thing in plan.things if thing.name not in FOR_SALE))
    return _without_offers(plan, rng)


def offers_of(plan: VideoPlan) -> list[str]:
    """Channels that carry an offer in words."""
    return [name for name in ("title", "sticker", "speech") if getattr(getattr(plan, name), "theme", None) == "offer"]


def _without_offers(plan: VideoPlan, rng: np.random.Generator) -> VideoPlan:
    channels: dict[str, Any] = {name: _filler_phrase(rng, plan.source, ("benign",)) for name in offers_of(plan)}
    return replace(plan, **channels)


def _without_goods(plan: VideoPlan) -> VideoPlan:
    return replace(plan, things=tuple(thing for thing in plan.things if thing.name not in FOR_SALE))


def _thing_share(rng: np.random.Generator, *, small: bool = False) -> float:
    return float(rng.uniform(0.06, 0.09) if small else rng.uniform(0.17, 0.34))


def _thing(rng: np.random.Generator, name: str, *, share: float | None = None, evidence: bool = False) -> Thing:
    width = float(rng.uniform(0.06, 0.14)) if share is None else share
    x, y = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.28, 0.72))
    start, end = _stay(rng)
    return Thing(name=name, share=width, x=x, y=y, start=start, end=end, evidence=evidence)


def _stay(rng: np.random.Generator) -> tuple[float, float]:
    """The whole video, or, in two of five cases, 35 to 65 % of it."""
    if rng.random() < 0.6:
        return 0.0, 1.0
    length = float(rng.uniform(0.35, 0.65))
    start = float(rng.uniform(0, 1 - length))
    return start, start + length


def _add(plan: VideoPlan, thing: Thing) -> VideoPlan:
    return replace(plan, things=(*plan.things, thing))


def _weapon(plan: VideoPlan, rng: np.random.Generator, *, small: bool) -> VideoPlan:
    weapon = _thing(rng, _one_of(rng, WEAPONS), share=_thing_share(rng, small=small), evidence=True)
    return replace(_add(plan, weapon), clause="weapons", lower_third="name" if plan.lower_third else None)


def _toy(plan: VideoPlan, rng: np.random.Generator, *, small: bool) -> VideoPlan:
    if rng.random() < 0.25:
        weapon = _thing(rng, _one_of(rng, WEAPONS), share=_thing_share(rng, small=small))
        return replace(_add(plan, weapon), lower_third="news")
    name = _one_of(rng, ("toy_pistol", "toy_pistol", *TOYS_AND_TOOLS))
    return _add(plan, _thing(rng, name, share=_thing_share(rng, small=small)))


def _order(plan: VideoPlan, rng: np.random.Generator, *, backwards: bool) -> VideoPlan:
    clause = None if backwards else "dangerous_acts"
    return replace(plan, act=_one_of(rng, ACTS), act_backwards=backwards, action=None, clause=clause)


def _motion(plan: VideoPlan, rng: np.random.Generator, actions: tuple[str, ...], clause: str | None) -> VideoPlan:
    return replace(plan, action=_one_of(rng, actions), act=None, clause=clause)


def _words(plan: VideoPlan, rng: np.random.Generator, channel: str, *, harmless: bool) -> VideoPlan:
    theme = _one_of(rng, CLAUSE_OF_THEME)
    words: dict[str, Any] = {
        channel: phrase(rng, lexicon()[plan.source.language], f"{theme}_ok" if harmless else theme)
    }
    return replace(plan, **words, clause=None if harmless else CLAUSE_OF_THEME[theme])


def _sound(plan: VideoPlan, rng: np.random.Generator, names: Any, clause: str | None) -> VideoPlan:
    return replace(plan, sound=_one_of(rng, names), clause=clause)


def _conjunction(plan: VideoPlan, rng: np.random.Generator) -> VideoPlan:
    channel = _one_of(rng, ("speech", "speech", "sticker", "title"))
    plan = _without_offers(_without_goods(plan), rng)
    plan = _add(plan, _thing(rng, _one_of(rng, FOR_SALE), share=_thing_share(rng), evidence=True))
    words: dict[str, Any] = {channel: phrase(rng, lexicon()[plan.source.language], "offer")}
    return replace(plan, **words, clause="illegal_goods", conjunction_channel=channel)


def _half_conjunction(plan: VideoPlan, rng: np.random.Generator) -> VideoPlan:
    if rng.random() < 0.5:
        goods = _thing(rng, _one_of(rng, FOR_SALE), share=_thing_share(rng))
        return _add(_without_offers(_without_goods(plan), rng), goods)
    channel = _one_of(rng, ("speech", "speech", "sticker", "title"))
    words: dict[str, Any] = {channel: phrase(rng, lexicon()[plan.source.language], "offer")}
    return replace(_without_goods(plan), **words)


_EVIDENCE = {
    "visual_object": lambda plan, rng: _weapon(plan, rng, small=False),
    "small_object": lambda plan, rng: _weapon(plan, rng, small=True),
    "motion": lambda plan, rng: _motion(plan, rng, VIOLENT_PAIRS, "violence"),
    "order": lambda plan, rng: _order(plan, rng, backwards=False),
    "sticker": lambda plan, rng: _words(plan, rng, "sticker", harmless=False),
    "title": lambda plan, rng: _words(plan, rng, "title", harmless=False),
    "speech": lambda plan, rng: _words(plan, rng, "speech", harmless=False),
    "sound": lambda plan, rng: _sound(plan, rng, ALARMING, "alarming_sounds"),
    "conjunction": _conjunction,
}
_LOOK_ALIKE = {
    "visual_object": lambda plan, rng: _toy(plan, rng, small=False),
    "small_object": lambda plan, rng: _toy(plan, rng, small=True),
    "motion": lambda plan, rng: _motion(plan, rng, BENIGN_PAIRS, None),
    "order": lambda plan, rng: _order(plan, rng, backwards=True),
    "sticker": lambda plan, rng: _words(plan, rng, "sticker", harmless=True),
    "title": lambda plan, rng: _words(plan, rng, "title", harmless=True),
    "speech": lambda plan, rng: _words(plan, rng, "speech", harmless=True),
    "sound": lambda plan, rng: _sound(plan, rng, HARMLESS, None),
    "conjunction": _half_conjunction,
}
