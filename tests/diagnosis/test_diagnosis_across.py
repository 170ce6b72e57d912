"""How a class carries over between mechanisms: what both share is found, what only one shows is not."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.bench.diagnosis_across import across_mechanisms, counts
from tidegate.diagnosis.forest import BlendConfig
from tidegate.diagnosis.learned import PreparedRun
from tidegate.diagnosis.networks import NetworkConfig

QUICK = BlendConfig(num_trees=20, networks=NetworkConfig(epochs=20, seeds=1), folds=2)


def prepared(fault: str, mechanism: str, features: np.ndarray, *, group: int = 1, extra: int = 50) -> PreparedRun:
    return PreparedRun(fault=fault, mechanism=mechanism, group=group, extra_errors=extra, items=2400, fully=True,
                       run_F=features, errors_EF=np.zeros((0, 1)), due_E=np.zeros(0, dtype=bool))


@pytest.fixture(scope="module")
def runs() -> list[PreparedRun]:
    """C6 looks alike by both mechanisms; C8 by the one only, by the other it looks like C6."""
    rng = np.random.default_rng(0)
    looks = {("C6", "fitting"): 0, ("C6", "further"): 0, ("C8", "fitting"): 1, ("C8", "further"): 0,
             ("none", "none"): 2}
    made = []
    for group in range(1, 41):
        for (fault, mechanism), place in looks.items():
            for _ in range(3):
                made.append(prepared(fault, mechanism, rng.normal(0, 0.3, 4) + 3.0 * np.eye(4)[place], group=group))
    return made


def test_only_what_mechanisms_share_carries_over(runs: list[PreparedRun]) -> None:
    lines = {(one["left out"], one["tested"]): one for one in across_mechanisms(runs, QUICK)}
    assert set(lines) == {(a, b) for a in ("fitting", "further") for b in (a, "the others")}
    assert all(one["faults"] == 60 for one in lines.values())
    assert lines["further", "the others"]["first"] > 0.95
    assert lines["further", "further"]["first"] == pytest.approx(0.5, abs=0.05)
    assert lines["fitting", "fitting"]["first"] < 0.6
    assert lines["fitting", "the others"]["in three"] == 1.0


def test_faults_that_harm_next_to_nothing_do_not_count() -> None:
    assert counts(prepared("C6", "fitting", np.zeros(1), extra=12))
    assert not counts(prepared("C6", "fitting", np.zeros(1), extra=11))
    assert counts(prepared("M1", "fitting", np.zeros(1), extra=0))
    assert not counts(prepared("none", "none", np.zeros(1)))
