"""Hypotheses: what each cause of failure lets one expect of each observation.

Enters: nothing. Leaves: ``HYPOTHESES``: per class (and variant: which modality) the probability of yes for the
observations that the class speaks about; of all others it expects chance. The numbers are rules, not measurements:
.8 where the class is defined by the observation, .5 where it often shows, .03 where it must not show. The learned
classifier replaces them where it was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["HYPOTHESES", "Hypothesis"]

_C = FailureClass

@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One cause, in one variant."""

    failure: FailureClass
    variant: str
    """Modality, or empty."""
    expects: Mapping[str, float]
    """Observation → probability of yes."""


def _hypothesis(failure: FailureClass, expects: Mapping[str, float], variant: str = "") -> Hypothesis:
    return Hypothesis(failure=failure, variant=variant, expects=MappingProxyType(dict(expects)))


HYPOTHESES: tuple[Hypothesis, ...] = (
    _hypothesis(_C.SERVING, {"note": 0.9, "cure:retry": 0.85}),
    _hypothesis(_C.CASCADE_DROP, {"stopped": 0.995, "cure:force_full": 0.85}),
    _hypothesis(_C.THRESHOLD, {"threshold": 0.8}),
    _hypothesis(_C.MODALITY_IGNORED, {"cure:audio_only": 0.8, "still:audio_swap": 0.8}, "audio"),
    _hypothesis(_C.MODALITY_IGNORED, {"cure:vision_only": 0.8, "still:vision_swap": 0.8}, "vision"),
    _hypothesis(_C.MODALITY_IGNORED, {"cure:text_only": 0.8, "still:text_swap": 0.8}, "text"),
    _hypothesis(_C.MODALITY_PERCEPTION, {
        "cure:transcript_gold": 0.8, "cure:transcript_recognised": 0.4, "translation": 0.05, "perceived": 0.1,
        "cure:audio_only": 0.05}, "audio"),
    _hypothesis(_C.MODALITY_PERCEPTION, {
        "cure:text_gold": 0.8, "translation": 0.05, "perceived": 0.1, "cure:text_only": 0.05}, "text"),
    _hypothesis(_C.CROSS_MODAL, {
        "cure:audio_swap": 0.75, "cure:audio_mute": 0.75, "cure:vision_only": 0.6, "cure:text_only": 0.3,
        "still:audio_swap": 0.03}, "audio"),
    _hypothesis(_C.CROSS_MODAL, {
        "cure:text_swap": 0.75, "cure:text_drop": 0.75, "cure:vision_only": 0.6, "cure:audio_only": 0.4,
        "still:text_swap": 0.03}, "text"),
    _hypothesis(_C.CROSS_MODAL, {
        "cure:vision_swap": 0.75, "cure:audio_only": 0.6, "cure:text_only": 0.4, "still:vision_swap": 0.03}, "vision"),
    _hypothesis(_C.TEMPORAL, {"cure:frames_more": 0.75, "cure:frames_window": 0.65, "still:frames_shuffled": 0.6}),
    _hypothesis(_C.SPATIAL, {"cure:resolution_up": 0.75, "cure:crops": 0.7}),
    _hypothesis(_C.CORRUPTION, {"cure:clean": 0.75, "noisy": 0.7}),
    _hypothesis(_C.LOCALE, {
        "locale": 0.9, "translation": 0.75, "cure:translated_recognised": 0.6, "threshold": 0.4}),
    _hypothesis(_C.POLICY, {
        "cure:policy_other": 0.8, "perceived": 0.85, "threshold": 0.4}),
    _hypothesis(_C.LABEL, {"peers": 0.9, "confident": 0.65, "perceived": 0.05}),
    _hypothesis(_C.NOVELTY, {"far": 0.85, "peers": 0.5}),
)
"""All hypotheses. Leakage has none: it shows in right items as well, and is checked before."""
