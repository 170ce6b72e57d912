"""The policy that the synthetic corpus is labelled by: which clause a piece of evidence breaks.

A video violates when at least one piece of evidence in it breaks a clause. Look-alikes break none. The pipeline's
policy files may name the same clauses; this table is where the labels come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CLAUSES", "EVIDENCE_KINDS", "Clause", "EvidenceKind"]

EvidenceKind = Literal[
    "visual_object", "small_object", "motion", "order", "sticker", "title", "speech", "sound", "conjunction"
]
EVIDENCE_KINDS: dict[EvidenceKind, float] = {
    "visual_object": 0.14, "small_object": 0.10, "motion": 0.11, "order": 0.10, "sticker": 0.12, "title": 0.10,
    "speech": 0.12, "sound": 0.11, "conjunction": 0.10,
}  # fmt: skip
"""Where the evidence of a violating video lies, and the share of each."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One rule of the synthetic policy."""

    id: str
    title: str
    text: str
    kinds: tuple[EvidenceKind, ...]
    """Evidence kinds by which the corpus breaks it."""


CLAUSES: tuple[Clause, ...] = (
    Clause(
        id="weapons",
        title="Weapons shown",
        text="A real firearm, or a bare knife held up, is shown. Allowed: toys and water pistols, tools, kitchen "
        "knives at work on a board, and news reports (news lower third).",
        kinds=("visual_object", "small_object"),
    ),
    Clause(
        id="violence",
        title="Violence",
        text="A person strikes or pushes another. Allowed: dance, greeting, hug, exercise.",
        kinds=("motion",),
    ),
    Clause(
        id="dangerous_acts",
        title="Dangerous acts",
        text="Drinking and then driving; pouring fuel and then lighting it. Allowed: the same two things in the "
        "other order (drinking after the drive, putting out a fire).",
        kinds=("order",),
    ),
    Clause(
        id="threats",
        title="Threats",
        text="Threatens to kill or to burn a home, in speech, on screen or in the title. Allowed: reports and "
        "denials of it.",
        kinds=("sticker", "title", "speech"),
    ),
    Clause(
        id="illegal_goods",
        title="Illegal goods",
        text="Offers weapons or drugs in words, or invites orders while pills, powder or cash are in the picture. "
        "Allowed: news and warnings; the picture alone; an invitation to order something else.",
        kinds=("sticker", "title", "speech", "conjunction"),
    ),
    Clause(
        id="alarming_sounds",
        title="Alarming sounds",
        text="Gunshots, a scream, an explosion, breaking glass. Allowed: drums, claps, knocking, balloons, "
        "fireworks with a crowd, cheering, dishes.",
        kinds=("sound",),
    ),
)
