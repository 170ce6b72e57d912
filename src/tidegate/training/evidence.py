"""Auxiliary targets from the synthetic truth of training videos: what is in them, by channel.

Enters: entries of the *training* split. Leaves: task → class of each entry (0: nothing of that task). A corpus
without truth gives no targets. Validation and test never pass through here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.corpus.synthetic.clauses import EVIDENCE_KINDS
from tidegate.corpus.synthetic.figures import BENIGN_PAIRS, BENIGN_SOLOS, VIOLENT_PAIRS
from tidegate.corpus.synthetic.plan import ACTS
from tidegate.corpus.synthetic.sounds import ALARMING, HARMLESS
from tidegate.corpus.synthetic.sprites import FOR_SALE, WEAPONS
from tidegate.types import Modality

__all__ = ["ACTIONS", "MODALITY_OF_TASK", "SOUNDS", "THEMES", "class_of", "evidence_targets"]

THEMES = ("benign", "threat", "threat_ok", "goods", "goods_ok", "offer")
SOUNDS = (*ALARMING, *HARMLESS)
MODALITY_OF_TASK: Mapping[str, Modality] = {
    "title": "text",
    "sticker": "text",
    "speech": "audio",
    "sound": "audio",
    "weapon": "vision",
    "for_sale": "vision",
    "action": "vision",
    "act": "vision",
}
"""Which modality a task is about; ``kind`` is about the whole clip. A sticker counts as its known text."""
ACTIONS = (*BENIGN_SOLOS, *BENIGN_PAIRS, *VIOLENT_PAIRS)


def class_of(options: Sequence[str], name: str | None) -> int:
    """1 + the place of ``name`` among ``options``; 0 for None."""
    return 0 if name is None else 1 + list(options).index(name)


def _theme(words: Mapping[str, Any] | None) -> int:
    return class_of(THEMES, None if words is None else words["theme"])


def _first(things: Sequence[str], options: Sequence[str]) -> int:
    return class_of(options, next((name for name in things if name in options), None))


def _targets(truth: Mapping[str, Any]) -> dict[str, int]:
    act = truth["act"]
    return {
        "kind": class_of(tuple(EVIDENCE_KINDS), truth["kind"]),
        "title": _theme(truth["title"]),
        "sticker": _theme(truth["sticker"]) if truth["sticker_in_metadata"] else 0,
        "speech": _theme(truth["speech"]),
        "sound": class_of(SOUNDS, truth["sound"]),
        "weapon": _first(truth["things"], tuple(WEAPONS)),
        "for_sale": _first(truth["things"], tuple(FOR_SALE)),
        "action": class_of(ACTIONS, truth["action"]),
        "act": 0 if act is None else class_of(ACTS, act) + len(ACTS) * int(truth["act_backwards"]),
    }


def evidence_targets(entries: Sequence[Entry]) -> dict[str, npt.NDArray[np.int64]]:
    """Targets by task; empty unless every entry carries the truth of the ``icd`` corpus."""
    if not entries or not all("kind" in entry.truth for entry in entries):
        return {}
    rows = [_targets(entry.truth) for entry in entries]
    return {task: np.asarray([row[task] for row in rows], dtype=np.int64) for task in rows[0]}
