"""Does a class carry over to a mechanism that was not fitted on? Read on the fitting mechanisms alone.

Enters: prepared runs of several fitting mechanisms of every class. Leaves: accuracy on the mechanism that was left out
and on those that were not, in worlds that were not fitted on. What is chosen about a classifier is chosen by this
figure: the held-out mechanisms are for the score only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tidegate.bench.diagnosis_score import LEAST_SHARE
from tidegate.diagnosis.classify import NONE
from tidegate.diagnosis.forest import BlendConfig, fit_blend
from tidegate.diagnosis.learned import PreparedRun, none_bias_of
from tidegate.diagnosis.table import Floats

__all__ = ["across_mechanisms", "counts"]

_TESTED_WORLDS = 4
"""Each world of this many is for the test."""


def across_mechanisms(runs: Sequence[PreparedRun], config: BlendConfig | None = None, *, seed: int = 0
                      ) -> list[dict[str, Any]]:
    """Two lines for each set of mechanisms left out: tested on that one, and on the others.

    Families of one name (``varied0``, ``varied1``) are one set: who wrote them had all of them in mind. A set without a
    run in the tested worlds has no lines.
    """
    found = []
    families = sorted({_set_of(run) for run in runs if run.fault != NONE and run.group % _TESTED_WORLDS == 0})
    for left_out in families:
        fitted = [run for run in runs if run.group % _TESTED_WORLDS and _set_of(run) != left_out]
        tested = [run for run in runs if run.group % _TESTED_WORLDS == 0]
        groups = np.unique([run.group for run in fitted], return_inverse=True)[1].astype(np.int64)
        model, _ = fit_blend(np.stack([run.run_F for run in fitted]), np.asarray([run.fault for run in fitted]), groups,
                             replace(config or BlendConfig(), folds=1), seed=seed)
        probabilities = model.probabilities(np.stack([run.run_F for run in tested]))
        named = _ranked(probabilities, model.classes, tested)
        for tested_on in (left_out, "the others"):
            own = [(run.fault, names) for run, names in zip(tested, named, strict=True)
                   if (_set_of(run) == left_out) == (tested_on == left_out) and counts(run)]
            found.append({
                "left out": left_out, "tested": tested_on, "faults": len(own),
                "first": float(np.mean([fault == names[0] for fault, names in own])) if own else float("nan"),
                "in three": float(np.mean([fault in names[:3] for fault, names in own])) if own else float("nan"),
            })  # fmt: skip
    return found


def _set_of(run: PreparedRun) -> str:
    return run.mechanism.rstrip("0123456789")


def _ranked(probabilities: Floats, classes: tuple[str, ...], tested: Sequence[PreparedRun]) -> list[list[str]]:
    """Classes of each run, likeliest first, with the bias of ``none`` that these runs without a fault ask for."""
    bias = none_bias_of(probabilities, classes, [run.fault for run in tested])
    logs = np.log(probabilities + 1e-9) + bias * (np.asarray(classes) == NONE)
    return [[classes[c] for c in row] for row in np.argsort(-logs, axis=1)]


def counts(run: PreparedRun) -> bool:
    """Whether a fault does as much harm as one that the benchmark counts."""
    return run.fault != NONE and (run.fault == "M1" or run.extra_errors >= LEAST_SHARE * run.items)
