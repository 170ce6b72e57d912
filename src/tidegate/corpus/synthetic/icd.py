"""One video of the task ``icd``: does it break the policy?

Enters: configuration and index. Leaves: the MP4, and its record (labels, texts that the platform knows, truth).
"""

from __future__ import annotations

from typing import Any

from tidegate.corpus.synthetic.config import CORPUS_VERSION, FRAME_RATE, KEYFRAME_INTERVAL, SyntheticConfig
from tidegate.corpus.synthetic.picture import compose
from tidegate.corpus.synthetic.plan import Phrase, Source, VideoPlan, plan_video
from tidegate.corpus.synthetic.soundtrack import Soundtrack, mix
from tidegate.media import encode_video

__all__ = ["make_icd_video"]

_MODALITIES = {
    "visual_object": ["vision"], "small_object": ["vision"], "motion": ["vision"], "order": ["vision"],
    "sticker": ["vision"], "title": ["text"], "speech": ["audio"], "sound": ["audio"],
}  # fmt: skip


def make_icd_video(config: SyntheticConfig, index: int, source: Source, place: int) -> dict[str, Any]:
    """Render and encode video ``index``."""
    plan = plan_video(config, index, source)
    picture, soundtrack = compose(plan), mix(plan)
    path = f"videos/{plan.video_id}.mp4"
    encode_video(
        config.folder / path, picture.frames(), FRAME_RATE, soundtrack.audio,
        crf=plan.noise.crf, gop=KEYFRAME_INTERVAL, title=plan.title.text,
    )  # fmt: skip
    return {
        "video_id": plan.video_id,
        "path": path,
        "labels": {config.task: plan.label},
        "region": source.region,
        "language": source.language,
        "views": plan.views,
        "creator": source.creator,
        "source_id": source.source_id,
        "texts": known_texts(plan),
        "truth": _truth(config, plan, picture.evidence(), soundtrack),
    }


def known_texts(plan: VideoPlan) -> list[dict[str, str]]:
    """The title, and the sticker where it was made in the app and its text is known."""
    texts = [{"kind": "title", "text": plan.title.text, "language": plan.title.language}]
    if plan.sticker is not None and plan.sticker_in_metadata:
        texts.append({"kind": "sticker", "text": plan.sticker.text, "language": plan.sticker.language})
    return texts


def _truth(
    config: SyntheticConfig, plan: VideoPlan, visible: list[dict[str, object]], soundtrack: Soundtrack
) -> dict[str, Any]:
    return {
        "corpus_version": CORPUS_VERSION,
        "seed": config.seed,
        "index": plan.index,
        "prevalence": config.prevalence,
        "kind": plan.kind,
        "clause": plan.clause,
        "modalities": modalities(plan),
        "look_alike": plan.look_alike,
        "evidence": _evidence(plan, visible, soundtrack),
        "language": plan.source.language,
        "script": plan.title.script,
        "title": _words(plan.title),
        "sticker": _words(plan.sticker),
        "sticker_in_metadata": plan.sticker is not None and plan.sticker_in_metadata,
        "speech": _words(plan.speech),
        "speech_span": soundtrack.speech_span,
        "sound": plan.sound,
        "sound_span": soundtrack.sound_span,
        "action": plan.action,
        "act": plan.act,
        "act_backwards": plan.act_backwards if plan.act else None,
        "things": [thing.name for thing in plan.things],
        "lower_third": plan.lower_third,
        "music": plan.music,
        "scene": plan.source.scene,
        "voice": plan.source.voice.variant,
        "noise": {
            "crf": plan.noise.crf, "blur_pixels": round(plan.noise.blur_pixels, 3), "shaky": plan.noise.shaky,
            "loud_music": plan.noise.loud_music,
        },
    }  # fmt: skip


def modalities(plan: VideoPlan) -> list[str]:
    """Modalities that must all be perceived to see the violation; a sticker known to the platform is in two places."""
    if plan.kind is None:
        return []
    if plan.kind == "conjunction":
        words = {"speech": "audio", "title": "text", "sticker": "vision"}[plan.conjunction_channel or "speech"]
        return sorted({"vision", words})
    return _MODALITIES[plan.kind]


def _words(phrase: Phrase | None) -> dict[str, Any] | None:
    return None if phrase is None else {"theme": phrase.theme, "line": phrase.line, "text": phrase.text}


def _evidence(plan: VideoPlan, visible: list[dict[str, object]], soundtrack: Soundtrack) -> list[dict[str, Any]]:
    """Each piece of violating evidence: modality, what, span in seconds, box (x, y, width, height over the frame)."""
    if plan.kind is None:
        return []
    pieces: list[dict[str, Any]] = [{"modality": "vision", **piece} for piece in visible]
    channel = plan.conjunction_channel or plan.kind
    if channel == "speech":
        pieces.append({"modality": "audio", "what": "speech", "span": soundtrack.speech_span, "box": None})
    elif channel == "sound":
        pieces.append({"modality": "audio", "what": plan.sound, "span": soundtrack.sound_span, "box": None})
    elif channel == "title":
        pieces.append({"modality": "text", "what": "title", "span": None, "box": None})
    return [{"kind": plan.kind, "clause": plan.clause, **piece} for piece in pieces]
