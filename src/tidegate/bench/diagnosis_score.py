"""Scores of the planted-fault benchmark.

Enters: rows of ``diagnosis_runs``. Leaves: ``score``: one dictionary with the accuracy of the named class, false
alarms, gain regret, coverage of predicted gains, calls, and the same for the rivals; with 95 % intervals that resample
whole worlds. Faults with fewer than ``LEAST_EXTRA_ERRORS`` extra errors are scored apart: they harm next to nothing,
and naming them is luck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tidegate.bench.diagnosis_rivals import RIVALS, recommended
from tidegate.diagnosis.taxonomy import TAXONOMY, FailureClass

__all__ = ["LEAST_EXTRA_ERRORS", "LEAST_SHARE", "counted", "score"]

Row = dict[str, Any]
LEAST_EXTRA_ERRORS = 12
"""Extra errors of 2,400 items (0.5 %) from which on a fault counts."""
LEAST_SHARE = LEAST_EXTRA_ERRORS / 2400
"""The same as a share of the items."""
HARM = ((LEAST_EXTRA_ERRORS, 24), (24, 60), (60, 10_000))
"""Bands of extra errors that accuracy is read in: from, and below."""
LEAST_GAIN = 0.005
"""Best F1 gain from which on a regret is computed."""
NAMES = (*(failure.value for failure in TAXONOMY), "none")


def counted(row: Row) -> bool:
    """Whether a run counts: no fault, leakage (which harms no item), or a fault that does something."""
    least = row.get("least_extra_errors", LEAST_EXTRA_ERRORS)
    return bool(row["truth"] in ("none", "M1") or row["extra_errors"] >= least)


def _top(row: Row) -> str:
    return str(row["ranking"][0][0])


def _in_top(row: Row, k: int) -> bool:
    return row["truth"] in [name for name, _ in row["ranking"][:k]]


def _interval(rows: Sequence[Row], value: Callable[[Row], float], *, median: bool = False) -> dict[str, float | int]:
    """Mean (or median) with a 95 % interval over resampled worlds."""
    values = np.asarray([value(row) for row in rows], dtype=float)
    known = np.isfinite(values)
    worlds = np.asarray([row["world"] for row in rows])[known] if len(rows) else np.zeros(0)
    values = values[known]
    centre: Callable[[Any], Any] = np.median if median else np.mean
    if not len(values):
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    groups = [values[worlds == world] for world in np.unique(worlds)]
    rng = np.random.default_rng(0)
    picks = rng.integers(len(groups), size=(500, len(groups)))
    drawn = [centre(np.concatenate([groups[g] for g in pick])) for pick in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(centre(values)), "low": float(low), "high": float(high), "n": len(values)}


def _f1_of_class(rows: Sequence[Row], name: str) -> float:
    hits = sum(row["truth"] == name and _top(row) == name for row in rows)
    total = sum(row["truth"] == name for row in rows) + sum(_top(row) == name for row in rows)
    return 2 * hits / total if total else float("nan")


def _macro_f1(rows: Sequence[Row]) -> float:
    """Mean over the classes that occur or are named; NaN without any."""
    known = [value for value in (_f1_of_class(rows, name) for name in NAMES) if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def regret(row: Row, intervention: str | None) -> float:
    """(best gain - gain of the intervention) / best gain; 1 for doing nothing.

    NaN where nothing helps, or where the intervention was not carried out (on clips those that train).
    """
    gains = {name: gain for name, gain in row["realised"].items() if name != "placebo"}
    best = max(gains.values(), default=0.0)
    if best < LEAST_GAIN or row["truth"] == "M1" or (intervention is not None and intervention not in gains):
        return float("nan")
    return float((best - (0.0 if intervention is None else gains[intervention])) / best)


def _best_of_class(row: Row) -> str | None:
    """Highest predicted gain among the interventions of the named class."""
    if _top(row) == "none":
        return None
    names = TAXONOMY[FailureClass(_top(row))].interventions
    return max(names, key=lambda name: row["predicted"][name][0] if name in row["predicted"] else -1.0)


def _mean_regret_of_chance(row: Row) -> float:
    gains = [name for name in row["realised"] if name != "placebo"]
    return float(np.mean([regret(row, name) for name in gains])) if gains else float("nan")


def _covered(row: Row) -> list[bool]:
    return [low <= row["realised"][name] <= high for name, (_, low, high, *_) in row["predicted"].items()
            if name != "deduplicate"]  # fmt: skip


def _rank_correlation(row: Row) -> float:
    names = [name for name in row["predicted"] if name in row["realised"]]
    found = stats.spearmanr([row["predicted"][n][0] for n in names], [row["realised"][n] for n in names])
    return float(found.statistic)


def score(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures."""
    some = [row for row in rows if counted(row)]
    of = {name: [row for row in some if row["family"] == name] for name in ("fitting", "held_out", "and", "or")}
    quiet = [row for row in rows if row["truth"] == "none"]
    single = of["fitting"] + of["held_out"]
    gained = [row for row in single if "realised" in row]
    found: dict[str, Any] = {
        "runs": len(rows), "runs_too_small_to_count": len(rows) - len(some),
        "top1": _interval(of["fitting"], lambda row: _in_top(row, 1)),
        "top3": _interval(of["fitting"], lambda row: _in_top(row, 3)),
        "heldout_top1": _interval(of["held_out"], lambda row: _in_top(row, 1)),
        "heldout_top3": _interval(of["held_out"], lambda row: _in_top(row, 3)),
        "top1_small_ones_too": _interval([r for r in rows if r["family"] == "fitting"], lambda row: _in_top(row, 1)),
        "heldout_top1_small_ones_too": _interval(
            [r for r in rows if r["family"] == "held_out"], lambda row: _in_top(row, 1)
        ),
        "false_alarm": _interval(quiet, lambda row: _top(row) != "none"),
        **_full(of, quiet),
        "macro_f1": _macro_f1([*single, *quiet]),
        "items_found": _interval(single, lambda row: row["items_found"]),
        "calls_per_error": _interval([*single, *quiet], lambda row: row["calls_per_error"]),
        "median_regret": _interval(gained, lambda row: regret(row, row["recommended"]), median=True),
        "median_regret_of_class": _interval(gained, lambda row: regret(row, recommended(_top(row))), median=True),
        "median_regret_in_class": _interval(gained, lambda row: regret(row, _best_of_class(row)), median=True),
        "interval_coverage": _interval(gained, lambda row: float(np.mean(_covered(row)))),
        "rank_correlation": _interval(gained, _rank_correlation, median=True),
        "and_both_in_top3": _interval(of["and"], lambda row: _in_top(row, 3) and _also(row, 3)),
        "and_one_is_top1": _interval(of["and"], lambda row: _in_top(row, 1) or _also(row, 1)),
        "or_both_in_top3": _interval(of["or"], lambda row: _in_top(row, 3) and _also(row, 3)),
        "or_one_is_top1": _interval(of["or"], lambda row: _in_top(row, 1) or _also(row, 1)),
        "confusion": _confusion([*single, *quiet]), "by_class": _by_class(of), "by_severity": _by_severity(of),
        "by_harm": _by_harm(of),
        "rivals": _rivals(of, quiet, gained), "curve": _curve(single),
    }  # fmt: skip
    return found


def _by_harm(of: dict[str, list[Row]]) -> list[dict[str, Any]]:
    """Named first by extra errors: whether a class is missed, or only what harms little."""
    found = []
    for low, high in HARM:
        line: dict[str, Any] = {"extra errors": f"{low} to {high - 1}" if high < 10_000 else f"{low} and more"}
        for name in ("fitting", "held_out"):
            rows = [row for row in of[name] if low <= row["extra_errors"] < high]
            first = float(np.mean([_in_top(row, 1) for row in rows])) if rows else float("nan")
            line |= {name: first, f"{name} in three": float(np.mean([_in_top(row, 3) for row in rows])) if rows
                     else float("nan"), f"{name} runs": len(rows)}
        found.append(line)
    return found


def _full(of: dict[str, list[Row]], quiet: Sequence[Row]) -> dict[str, Any]:
    """The same with every probe on every error, over the runs that were diagnosed so too."""
    def named(row: Row, k: int = 1) -> float:
        known = "full" in row
        return float(row["truth"] in [name for name, _ in row["full"]["ranking"][:k]]) if known else float("nan")

    return {
        "full_top1": _interval(of["fitting"], named), "full_top3": _interval(of["fitting"], lambda row: named(row, 3)),
        "full_heldout_top1": _interval(of["held_out"], named),
        "full_false_alarm": _interval(quiet, lambda row: 1 - named(row)),
    }  # fmt: skip


def _also(row: Row, k: int) -> bool:
    return row["also"] in [name for name, _ in row["ranking"][:k]]


def _confusion(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for row in rows:
        line = table.setdefault(row["truth"], {})
        line[_top(row)] = line.get(_top(row), 0) + 1
    return {name: table[name] for name in NAMES if name in table}


def _by_class(of: dict[str, list[Row]]) -> dict[str, dict[str, float]]:
    def rate(family: str, name: str) -> float:
        own = [_in_top(row, 1) for row in of[family] if row["truth"] == name]
        return float(np.mean(own)) if own else float("nan")

    return {name: {"fitting": rate("fitting", name), "held_out": rate("held_out", name),
                   "runs": sum(row["truth"] == name for row in of["fitting"] + of["held_out"])}
            for name in NAMES[:-1]}  # fmt: skip


def _by_severity(of: dict[str, list[Row]]) -> dict[str, dict[str, float]]:
    def rate(family: str, severity: int) -> float:
        own = [_in_top(row, 1) for row in of[family] if row["severity"] == severity]
        return float(np.mean(own)) if own else float("nan")

    return {str(level): {family: rate(family, level) for family in ("fitting", "held_out")} for level in (1, 2, 3)}


def _rivals(of: dict[str, list[Row]], quiet: Sequence[Row], gained: Sequence[Row]) -> dict[str, dict[str, float]]:
    found = {
        "chance": {
            "top1": 1 / len(NAMES), "heldout_top1": 1 / len(NAMES), "false_alarm": 1 - 1 / len(NAMES),
            "median_regret": _median([_mean_regret_of_chance(row) for row in gained]),
        }
    }
    for name in RIVALS:
        def hit(rows: Sequence[Row], rival: str = name) -> float:
            return float(np.mean([row["rivals"][rival] == row["truth"] for row in rows])) if rows else float("nan")

        found[name] = {
            "top1": hit(of["fitting"]), "heldout_top1": hit(of["held_out"]), "false_alarm": 1 - hit(quiet),
            "median_regret": _median([regret(row, recommended(row["rivals"][name])) for row in gained]),
        }  # fmt: skip
    return found


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")


def _curve(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Accuracy against model calls, over the runs that were diagnosed at every budget."""
    some = [row for row in rows if "curve" in row]
    points = []
    for place in range(len(some[0]["curve"]) if some else 0):
        points.append({
            "calls_per_error": float(np.mean([row["curve"][place]["calls_per_error"] for row in some])),
            "top1": float(np.mean([row["curve"][place]["top"] == row["truth"] for row in some])),
        })  # fmt: skip
    if some:
        points.append({"calls_per_error": float(np.mean([row["calls_per_error"] for row in some])),
                       "top1": float(np.mean([_in_top(row, 1) for row in some]))})  # fmt: skip
    return points
