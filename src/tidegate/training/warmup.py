"""What the tiny AVLM's towers first learn from: pictures, sounds and words drawn by the corpus generator.

Published AVLMs start from towers that have seen and heard the world; the tiny ones start from random weights, and a
few thousand videos are too few for that. Drawings are never encoded to a file and their seeds are no corpus's seed;
targets come from the plans. Enters: a count and a seed. Leaves: ``Examples``, kept in a folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.corpus.synthetic.config import SyntheticConfig
from tidegate.corpus.synthetic.figures import VIOLENT_PAIRS
from tidegate.corpus.synthetic.lexicon import CLAUSE_OF_THEME, lexicon
from tidegate.corpus.synthetic.picture import compose
from tidegate.corpus.synthetic.plan import ACTS, VideoPlan, phrase, plan_video, sources_of
from tidegate.corpus.synthetic.regions import draw_region
from tidegate.corpus.synthetic.sounds import ALARMING
from tidegate.corpus.synthetic.soundtrack import mix
from tidegate.corpus.synthetic.sprites import FOR_SALE, TOYS_AND_TOOLS, WEAPONS
from tidegate.models.batch import ClipFeatures
from tidegate.models.processor import ClipProcessor
from tidegate.training.evidence import ACTIONS, SOUNDS, THEMES, class_of
from tidegate.training.features import Progress, open_table, write_table
from tidegate.training.frozen import FrozenItem, FrozenTable
from tidegate.training.loop import Examples
from tidegate.types import Clip, FrameBatch, Span, TextKind, TextSpan

__all__ = [
    "WARMUP_SEED",
    "DrawnTexts",
    "PairedTowers",
    "audio_examples",
    "draw_texts",
    "drawn_plans",
    "paired_targets",
    "picture_examples",
]

WARMUP_SEED = 770_001
_VIOLATING = {class_of(THEMES, theme) for theme in CLAUSE_OF_THEME}
_OFFER = class_of(THEMES, "offer")
Targets = dict[str, int]
Maker = Callable[[VideoPlan], tuple[Clip, Targets]]
Columns = Mapping[str, npt.NDArray[np.int64]]


def drawn_plans(count: int, seed: int) -> list[VideoPlan]:
    """Plans of other seeds than any corpus: half of them violating, many look-alikes."""
    config = SyntheticConfig(out="unused", videos=count, seed=seed, prevalence=0.5, look_alike_share=0.7)
    return [plan_video(config, index, source) for index, (source, _) in enumerate(sources_of(config))]


def _phrase_classes() -> dict[tuple[str, str, int], int]:
    keys = [
        (code, theme, line)
        for code, language in sorted(lexicon().items())
        for theme in THEMES
        for line in range(len(language.phrases(theme)))
    ]
    return {key: number for number, key in enumerate(keys, start=1)}


def _audio_item(plan: VideoPlan, classes: Mapping[tuple[str, str, int], int]) -> tuple[Clip, Targets]:
    rng = np.random.default_rng([plan.seed, plan.index])
    if plan.speech is not None or rng.random() < 0.6:
        theme = THEMES[int(rng.integers(len(THEMES)))]
        plan = dataclasses.replace(plan, speech=phrase(rng, lexicon()[plan.source.language], theme))
    spoken = plan.speech
    targets = {
        "speech": class_of(THEMES, None if spoken is None else spoken.theme),
        "phrase": 0 if spoken is None else classes[spoken.language, spoken.theme, spoken.line],
        "sound": class_of(SOUNDS, plan.sound),
    }
    alarming = plan.sound is not None and plan.sound in ALARMING
    targets["label"] = int(alarming or targets["speech"] in _VIOLATING)
    span = Span(0.0, plan.duration_seconds)
    return Clip(video_id=plan.video_id, span=span, frames=None, audio=mix(plan).audio), targets


def _picture_item(plan: VideoPlan, num_frames: int) -> tuple[Clip, Targets]:
    picture, seconds = compose(plan), plan.duration_seconds
    instants = (np.arange(num_frames) + 0.5) * seconds / num_frames
    frames = np.stack([picture._frame(float(instant)) for instant in instants])
    names = [thing.name for thing in plan.things]

    def first(options: Mapping[str, object]) -> int:
        return class_of(tuple(options), next((name for name in names if name in options), None))

    targets = {
        "weapon": first(WEAPONS),
        "toy": first(TOYS_AND_TOOLS),
        "for_sale": first(FOR_SALE),
        "action": class_of(ACTIONS, plan.action),
        "act": 0 if plan.act is None else class_of(ACTS, plan.act) + len(ACTS) * int(plan.act_backwards),
        "lower_third": class_of(("news", "name"), plan.lower_third),
    }
    armed = targets["weapon"] > 0 and plan.lower_third != "news"
    forwards = plan.act is not None and not plan.act_backwards
    targets["label"] = int(armed or plan.action in VIOLENT_PAIRS or forwards)
    batch = FrameBatch(frames_THWC=frames, pts_seconds=instants)
    return Clip(video_id=plan.video_id, span=Span(0.0, seconds), frames=batch, audio=None), targets


def _write_examples(
    make: Maker, plans: Sequence[VideoPlan], processor: ClipProcessor, folder: Path, progress: Progress | None
) -> None:
    rows: list[Targets] = []

    def results() -> Iterator[tuple[str, ClipFeatures]]:
        for plan in plans:
            clip, targets = make(plan)
            rows.append(targets)
            yield plan.video_id, processor.features([clip])[0]

    folder.mkdir(parents=True, exist_ok=True)
    write_table(results(), len(plans), processor, folder, progress=progress)
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    np.savez(folder / "targets.npz", **columns)  # type: ignore[arg-type]


def _read_examples(folder: Path) -> Examples:
    stored = np.load(folder / "targets.npz")
    auxiliary = {name: stored[name] for name in stored.files if name != "label"}
    table = open_table(folder, from_cache=True)
    return Examples(table=table, rows=np.arange(len(table)), labels=stored["label"], auxiliary=auxiliary)


def audio_examples(
    count: int, processor: ClipProcessor, folder: Path, *, seed: int = WARMUP_SEED, progress: Progress | None = None
) -> Examples:
    """Soundtracks with phrase, theme and sound effect as targets; the label is what the audio alone shows."""
    if not (folder / "targets.npz").exists():
        classes = _phrase_classes()
        plans = drawn_plans(count, seed)
        _write_examples(lambda plan: _audio_item(plan, classes), plans, processor, folder, progress)
    return _read_examples(folder)


def picture_examples(
    count: int, processor: ClipProcessor, folder: Path, *, seed: int = WARMUP_SEED + 1, progress: Progress | None = None
) -> Examples:
    """Frames with the objects, the action and the act as targets; the label is what the picture alone shows."""
    if not (folder / "targets.npz").exists():
        num_frames, plans = processor.config.num_frames, drawn_plans(count, seed)
        _write_examples(lambda plan: _picture_item(plan, num_frames), plans, processor, folder, progress)
    return _read_examples(folder)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DrawnTexts:
    """Title and sticker of each drawn clip, with their themes (0: none)."""

    texts: tuple[tuple[TextSpan, ...], ...]
    title: npt.NDArray[np.int64]
    sticker: npt.NDArray[np.int64]


def draw_texts(count: int, seed: int = WARMUP_SEED + 2) -> DrawnTexts:
    """Titles always, stickers often; any theme of the lexicon."""
    rng = np.random.default_rng(seed)
    texts: list[tuple[TextSpan, ...]] = []
    themes: list[tuple[int, int]] = []
    for _ in range(count):
        language = lexicon()[draw_region(rng, None)[1]]
        chosen = [_drawn_theme(rng), _drawn_theme(rng) if rng.random() < 0.4 else None]
        kinds: tuple[TextKind, TextKind] = ("title", "sticker")
        spans = [
            TextSpan(kind, phrase(rng, language, theme).text, language.code)
            for kind, theme in zip(kinds, chosen, strict=True)
            if theme is not None
        ]
        texts.append(tuple(spans))
        themes.append((class_of(THEMES, chosen[0]), class_of(THEMES, chosen[1])))
    columns = np.asarray(themes, dtype=np.int64)
    return DrawnTexts(texts=tuple(texts), title=columns[:, 0], sticker=columns[:, 1])


def _drawn_theme(rng: np.random.Generator) -> str:
    return "benign" if rng.random() < 0.5 else THEMES[int(rng.integers(len(THEMES)))]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairedTowers:
    """Clips put together of a drawn picture, a soundtrack and texts, after the towers."""

    seen: FrozenTable
    heard: FrozenTable
    token_ids: Sequence[npt.NDArray[np.int64]]
    picture_N: npt.NDArray[np.int64]
    sound_N: npt.NDArray[np.int64]
    frames: tuple[int, ...]
    """Which frames of a drawn clip are used."""

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Ids of the pictures."""
        return tuple(self.seen.video_ids[row] for row in self.picture_N)

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, row: int) -> FrozenItem:
        patches_TPD = self.seen[int(self.picture_N[row])].patches_TPD
        assert patches_TPD is not None
        audio_D = self.heard[int(self.sound_N[row])].audio_D
        return FrozenItem(patches_TPD=patches_TPD[list(self.frames)], audio_D=audio_D, token_ids=self.token_ids[row])


def paired_targets(picture: Columns, audio: Columns, texts: DrawnTexts) -> dict[str, npt.NDArray[np.int64]]:
    """Targets of clips made of one picture, one soundtrack and one set of texts; ``label`` follows the policy."""
    words: Sequence[npt.NDArray[np.int64]] = (texts.title, texts.sticker, audio["speech"])
    spoken = np.any([np.isin(word, list(_VIOLATING)) for word in words], axis=0)
    offered = np.any([word == _OFFER for word in words], axis=0) & (picture["for_sale"] > 0)
    label = (picture["label"] == 1) | (audio["label"] == 1) | spoken | offered
    both = {
        name: column for side in (picture, audio) for name, column in side.items() if name not in ("label", "phrase")
    }
    return {**both, "title": texts.title, "sticker": texts.sticker, "label": label.astype(np.int64)}
