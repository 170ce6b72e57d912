"""One video of the task ``ucc``: an original, or an edited copy of another clip in the pool?

Enters: configuration and index. Leaves: the MP4 and its record. A source is a family: its first video is an original,
later ones are copies of one of its originals, or further originals of the same place and people. A copy starts from
the decoded file of its original, as a re-upload does, so that compression traces are real. Honest originals have
borders, logos and corner presenters of their own, so that such a look alone tells little.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.corpus.synthetic.config import CORPUS_VERSION, FRAME_RATE, KEYFRAME_INTERVAL, SyntheticConfig
from tidegate.corpus.synthetic.edits import EDITS, NATIVE_LOOKS, Footage
from tidegate.corpus.synthetic.icd import known_texts
from tidegate.corpus.synthetic.lexicon import lexicon
from tidegate.corpus.synthetic.picture import compose
from tidegate.corpus.synthetic.plan import Source, VideoPlan, neutral_id, phrase, plan_video, rng_of
from tidegate.corpus.synthetic.soundtrack import mix
from tidegate.corpus.synthetic.speech import SAMPLE_RATE_HZ
from tidegate.media import encode_video, probe, read_audio, read_frames
from tidegate.types import AudioChunk

__all__ = ["make_ucc_video"]

_FIRST_SHARE = 1 / 3
"""Mean share of videos that are the first of their source."""
_NATIVE_SHARE = 0.5
"""Share of originals with a look that copies have too."""


def make_ucc_video(config: SyntheticConfig, index: int, source: Source, place: int) -> dict[str, Any]:
    """Render and encode video ``index``, which is number ``place`` of its source."""
    if not _is_copy(config, index, place):
        return _original(config, index, source)
    originals = [
        number for number in range(index - place, index) if not _is_copy(config, number, number - index + place)
    ]
    chosen = originals[int(rng_of(config.seed, "copy", index, 1).integers(len(originals)))]
    return _copy(config, index, source, chosen)


def _is_copy(config: SyntheticConfig, index: int, place: int) -> bool:
    share = min(1.0, config.prevalence / (1 - _FIRST_SHARE))
    return place > 0 and bool(rng_of(config.seed, "copy", index).random() < share)


def _plan(config: SyntheticConfig, index: int, source: Source) -> VideoPlan:
    harmless = replace(config, prevalence=0.0)
    return plan_video(harmless, index, source)


def _write(config: SyntheticConfig, video_id: str, footage: Footage, title: str) -> str:
    path = f"videos/{video_id}.mp4"
    audio = AudioChunk(samples=footage.samples, sample_rate_hz=SAMPLE_RATE_HZ)
    file = config.folder / path
    encode_video(file, footage.frames_THWC, FRAME_RATE, audio, crf=footage.crf, gop=KEYFRAME_INTERVAL, title=title)
    return path


def _published(plan: VideoPlan) -> tuple[Footage, list[dict[str, Any]]]:
    """An original as its maker uploads it, with its native looks."""
    rng = rng_of(plan.seed, "copy", plan.index, 2)
    footage = Footage(
        frames_THWC=np.stack(list(compose(plan).frames())),
        samples=mix(plan).audio.samples,
        crf=plan.noise.crf,
        handle=plan.source.creator,
    )
    looks: list[dict[str, Any]] = []
    if rng.random() < _NATIVE_SHARE:
        name = tuple(NATIVE_LOOKS)[int(rng.integers(len(NATIVE_LOOKS)))]
        footage, parameters = NATIVE_LOOKS[name](footage, rng)
        looks.append({"name": name, **parameters})
    return footage, looks


def _original(config: SyntheticConfig, index: int, source: Source) -> dict[str, Any]:
    plan = _plan(config, index, source)
    footage, looks = _published(plan)
    path = _write(config, plan.video_id, footage, plan.title.text)
    truth = {"kind": None, "copy_of": None, "edits": [], "native_looks": looks}
    return _record(plan, path, known_texts(plan), source.creator, truth)


def _copy(config: SyntheticConfig, index: int, source: Source, original: int) -> dict[str, Any]:
    rng = rng_of(config.seed, "copy", index, 3)
    base, own = _plan(config, original, source), _plan(config, index, source)
    footage, looks = _published(base)
    thief = "u" + neutral_id(config.task, config.seed, "thief", index, length=8)
    footage = replace(_downloaded(footage), handle=thief, crf=int(rng.integers(22, 30)))
    edits: list[dict[str, Any]] = []
    for name in rng.choice(list(EDITS), size=int(rng.integers(1, 4)), replace=False):
        footage, parameters = EDITS[str(name)](footage, rng)
        edits.append({"name": str(name), **parameters})
    title = base.title if rng.random() < 0.4 else phrase(rng, lexicon()[source.language], "benign")
    own = replace(own, title=title, sticker=None)
    path = _write(config, own.video_id, footage, title.text)
    truth = {"kind": "copy", "copy_of": base.video_id, "edits": edits, "native_looks": looks}
    return _record(own, path, known_texts(own), thief, truth)


def _downloaded(footage: Footage) -> Footage:
    """What anybody gets who saves the published file: decoded H.264 and AAC."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "published.mp4"
        audio = AudioChunk(samples=footage.samples, sample_rate_hz=SAMPLE_RATE_HZ)
        encode_video(file, footage.frames_THWC, FRAME_RATE, audio, crf=footage.crf, gop=KEYFRAME_INTERVAL)
        heard = read_audio(file, sample_rate_hz=SAMPLE_RATE_HZ)
        frames = read_frames(file, probe(file).frame_pts_seconds).frames_THWC
    samples = np.zeros(0, np.float32) if heard is None else heard.samples
    return replace(footage, frames_THWC=frames, samples=samples)


def _record(
    plan: VideoPlan, path: str, texts: list[dict[str, str]], creator: str, truth: dict[str, Any]
) -> dict[str, Any]:
    about = {"corpus_version": CORPUS_VERSION, "seed": plan.seed, "index": plan.index, "scene": plan.source.scene}
    return {
        "video_id": plan.video_id,
        "path": path,
        "labels": {"ucc": int(truth["kind"] == "copy")},
        "region": plan.source.region,
        "language": plan.source.language,
        "views": plan.views,
        "creator": creator,
        "source_id": plan.source.source_id,
        "texts": texts,
        "truth": {**about, **truth},
    }
