"""Classes of failure, what can be observed of each, and which interventions can cure it.

Enters: nothing. Leaves: ``FailureClass``, ``TAXONOMY`` and the ids of the probes and interventions that the other
files of this room share. A class is what can be told apart by observation, not what somebody believes to be the cause:
two causes with equal observations are one class. Pre-checks (M1, M2) come first: they make every other reading void.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

__all__ = ["PROBES", "TAXONOMY", "FailureClass", "FailureKind", "Probe"]


class FailureClass(StrEnum):
    """Why one item is wrong. ``UNDETERMINED`` is an answer, not a gap."""

    LEAKAGE = "M1"
    SERVING = "M2"
    CASCADE_DROP = "C1"
    THRESHOLD = "C2"
    MODALITY_IGNORED = "C3"
    MODALITY_PERCEPTION = "C4"
    CROSS_MODAL = "C5"
    TEMPORAL = "C6"
    SPATIAL = "C7"
    CORRUPTION = "C8"
    LOCALE = "C9"
    POLICY = "C10"
    LABEL = "C11"
    NOVELTY = "C12"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, kw_only=True)
class FailureKind:
    """What is known of one class."""

    name: str
    """Words for people."""
    signature: str
    """What is observed when this class is at work."""
    interventions: tuple[str, ...]
    """Ids of interventions that can cure it, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One thing changed, everything else equal; the same items are scored again."""

    summary: str
    """What is changed."""
    modality: str | None = None
    """Modality that an item must have for the probe to apply; None: any item."""
    relative_cost: float = 1.0
    """Model calls of an item, in calls of the large stage with its usual input; decides the order of probes."""


def _probes() -> dict[str, Probe]:
    return {
        "null": Probe(summary="nothing but noise: encoded again, or another seed"),
        "retry": Probe(summary="decoded and scored again with wider limits", relative_cost=1.0),
        "force_full": Probe(summary="escalated whatever the base stage says"),
        "audio_swap": Probe(summary="audio of a matched item", modality="audio"),
        "audio_mute": Probe(summary="no audio, and the model is told so", modality="audio"),
        "vision_swap": Probe(summary="frames of a matched item", modality="vision"),
        "text_swap": Probe(summary="texts of a matched item", modality="text"),
        "text_drop": Probe(summary="no texts", modality="text"),
        "audio_only": Probe(summary="frames and texts of a matched harmless item", modality="audio"),
        "vision_only": Probe(summary="audio and texts of a matched harmless item", modality="vision"),
        "text_only": Probe(summary="frames and audio of a matched harmless item", modality="text"),
        "text_gold": Probe(summary="the true on-screen text is given"),
        "transcript_recognised": Probe(summary="a recognised transcript as text", modality="audio", relative_cost=1.3),
        "transcript_gold": Probe(summary="the true transcript as text", modality="audio"),
        "translated_recognised": Probe(summary="a transcript, translated", modality="audio", relative_cost=1.5),
        "translated_gold": Probe(summary="true transcript and texts, translated"),
        "frames_more": Probe(summary="four times the frames, evenly", modality="vision", relative_cost=3.0),
        "frames_window": Probe(summary="as many frames, of the densest window", modality="vision"),
        "frames_shuffled": Probe(summary="the same frames in another order", modality="vision"),
        "resolution_up": Probe(summary="twice the resolution", modality="vision", relative_cost=3.0),
        "crops": Probe(summary="tiles of the frames at full resolution", modality="vision", relative_cost=3.0),
        "clean": Probe(summary="denoised, deblocked, speech enhanced"),
        "noise_mild": Probe(summary="some noise added"),
        "noise_strong": Probe(summary="much noise added"),
        "policy_other": Probe(summary="judged under the other policy version"),
    }


PROBES: Mapping[str, Probe] = MappingProxyType(_probes())
"""Probe id → what it changes. A scorer may support a part of them."""

_C = FailureClass
TAXONOMY: Mapping[FailureClass, FailureKind] = MappingProxyType({
    _C.LEAKAGE: FailureKind(
        name="leakage", signature="near-duplicates of it lie in another split", interventions=("deduplicate",)),
    _C.SERVING: FailureKind(
        name="serving", signature="a time-out, cut, decode failure or missing track is on record; a retry cures it",
        interventions=("retry_serving",)),
    _C.CASCADE_DROP: FailureKind(
        name="cascade drop", signature="stopped at the base stage; forced escalation is right",
        interventions=("lower_tau", "lower_tau_slice", "hard_positives", "distil")),
    _C.THRESHOLD: FailureKind(
        name="threshold or calibration", signature="the slice is ranked well; a cross-fitted slice threshold cures it",
        interventions=("slice_threshold", "calibrate")),
    _C.MODALITY_IGNORED: FailureKind(
        name="modality ignored", signature="one modality alone is right, together wrong; swapping it changes nothing",
        interventions=("modality_dropout", "modality_tuning", "early_fusion")),
    _C.MODALITY_PERCEPTION: FailureKind(
        name="modality perception", signature="the modality alone is wrong; its true transcript or text cures it",
        interventions=("feed_text", "alignment_hours", "stronger_encoder")),
    _C.CROSS_MODAL: FailureKind(
        name="cross-modal interference", signature="dropping or swapping another modality cures it",
        interventions=("swapped_training", "conflict_data", "early_fusion")),
    _C.TEMPORAL: FailureKind(
        name="temporal", signature="more or denser frames cure it, resolution does not; or order goes unseen",
        interventions=("more_frames", "frame_window", "temporal_tuning")),
    _C.SPATIAL: FailureKind(
        name="spatial detail", signature="resolution or crops cure it, frames do not",
        interventions=("resolution", "tiling")),
    _C.CORRUPTION: FailureKind(
        name="corruption", signature="error rises with noise, cleaning cures it",
        interventions=("enhancement", "augmentation", "quality_gate")),
    _C.LOCALE: FailureKind(
        name="language or region", signature="errors gather in a locale though it is heard; a translation cures it",
        interventions=("locale_data", "translate", "locale_threshold")),
    _C.POLICY: FailureKind(
        name="policy", signature="the evidence is perceived, the decision is wrong; another policy version cures it",
        interventions=("policy_text", "policy_tuning", "clause_threshold")),
    _C.LABEL: FailureKind(
        name="label", signature="stable under all probes, confident, independent models speak against the label",
        interventions=("relabel",)),
    _C.NOVELTY: FailureKind(
        name="novelty", signature="no probe cures it; far from the training data",
        interventions=("collect_similar", "similarity_memory")),
})
"""Class → what is known of it; ``UNDETERMINED`` has no entry, for it has no cure."""
