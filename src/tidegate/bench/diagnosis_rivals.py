"""What diagnosis is compared with: simpler ways to name a class and to pick an intervention.

Enters: a ``ProbeTable`` with all probes that the diagnosis made. Leaves: per rival the class that it names (or
``none``). Each then recommends the first intervention that the taxonomy lists for that class; on ``none``, nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tidegate.diagnosis.signatures import control_pool, effect_of
from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.taxonomy import TAXONOMY, FailureClass
from tidegate.errors import DependencyMissing

__all__ = ["CLASS_OF_PROBE", "RIVALS", "recommended"]

_C = FailureClass
CLASS_OF_PROBE: dict[str, FailureClass] = {
    "retry": _C.SERVING, "force_full": _C.CASCADE_DROP, "audio_swap": _C.CROSS_MODAL, "audio_mute": _C.CROSS_MODAL,
    "vision_swap": _C.CROSS_MODAL, "text_swap": _C.CROSS_MODAL, "text_drop": _C.CROSS_MODAL,
    "audio_only": _C.MODALITY_IGNORED, "vision_only": _C.MODALITY_IGNORED, "text_only": _C.MODALITY_IGNORED,
    "text_gold": _C.MODALITY_PERCEPTION, "transcript_recognised": _C.MODALITY_PERCEPTION,
    "transcript_gold": _C.MODALITY_PERCEPTION, "translated_recognised": _C.LOCALE, "translated_gold": _C.LOCALE,
    "frames_more": _C.TEMPORAL, "frames_window": _C.TEMPORAL, "resolution_up": _C.SPATIAL, "crops": _C.SPATIAL,
    "clean": _C.CORRUPTION, "policy_other": _C.POLICY,
}  # fmt: skip
"""What a cure by one probe is taken for when nothing else is looked at."""
CLASS_OF_COLUMN = {"region": _C.LOCALE, "language": _C.LOCALE, "clause": _C.POLICY, "surface": _C.THRESHOLD,
                   "period": _C.THRESHOLD}  # fmt: skip
ISSUES_OF_A_CLEAN_RUN = 0.05
"""Share of labels that ``cleanlab`` doubts in a run without a fault; more is taken for a label fault."""


def always_threshold(table: ProbeTable) -> str:
    """Whatever happens, move the threshold."""
    return _C.THRESHOLD.value


def largest_slice(table: ProbeTable) -> str:
    """The slice whose rate of errors stands out most, and what its column suggests; ``none`` below 3 deviations."""
    errors, best = table.errors, (3.0, "none")
    rate = float(errors.mean())
    for name, column in table.slices.items():
        for value in np.unique(column):
            inside = column == value
            spread = np.sqrt(max(rate * (1 - rate), 1e-6) / inside.sum())
            excess = float((errors[inside].mean() - rate) / spread)
            best = max(best, (excess, CLASS_OF_COLUMN.get(name, _C.NOVELTY).value))
    return best[1]


def single_best_probe(table: ProbeTable) -> str:
    """The probe that cures most errors beyond what it breaks of right items near the threshold."""
    best, pool = (0.05, "none"), control_pool(table)
    for name, scores in table.probes.items():
        effect = effect_of(table, scores)
        errors, controls = effect.ran & table.errors, effect.ran & pool
        if name in CLASS_OF_PROBE and errors.sum() >= 10 and controls.any():
            cured = float(effect.cured[errors].sum()) / float(table.errors.sum())
            excess = cured - float(effect.broken[controls].mean())
            best = max(best, (excess, CLASS_OF_PROBE[name].value))
    return best[1]


def cleanlab_only(table: ProbeTable) -> str:
    """Labels that confident learning doubts; a label fault if there are many."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise DependencyMissing("label checks need cleanlab: pip install 'tidegate[diagnosis]'") from error
    known = np.isfinite(table.scores)
    scores = np.clip(table.scores[known], 1e-6, 1 - 1e-6)
    issues = find_label_issues(table.labels[known], np.column_stack([1 - scores, scores]), n_jobs=1)
    return _C.LABEL.value if float(np.mean(issues)) > ISSUES_OF_A_CLEAN_RUN else "none"


RIVALS: dict[str, Callable[[ProbeTable], str]] = {
    "always the threshold": always_threshold, "largest-error slice": largest_slice,
    "single best probe": single_best_probe, "cleanlab only": cleanlab_only,
}  # fmt: skip
"""Rival → the class that it names. Guessing at random needs no table and is computed."""


def recommended(named: str) -> str | None:
    """First intervention that the taxonomy lists for a class."""
    return None if named == "none" else TAXONOMY[FailureClass(named)].interventions[0]
