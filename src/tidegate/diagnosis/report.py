"""The report of a diagnosis: one HTML file that needs and reaches nothing else, and the same as JSON beside it.

Enters: a ``Diagnosis``, the gains of interventions and, where there are clips, what to show of them. Leaves: two files.
The first screen answers three questions: what is wrong, where, and what to do about it; all after it is evidence.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tidegate.diagnosis.charts import Bar, axis_of, bar, heat, histogram
from tidegate.diagnosis.classify import CLASSES, NONE
from tidegate.diagnosis.diagnose import Diagnosis
from tidegate.diagnosis.gains import Gain
from tidegate.diagnosis.limits import MIN_ERRORS
from tidegate.diagnosis.showing import Shown
from tidegate.diagnosis.signatures import margins
from tidegate.diagnosis.slices import FailureSlice
from tidegate.diagnosis.taxonomy import PROBES, TAXONOMY, FailureClass

__all__ = ["Example", "examples_of", "write_diagnosis"]

_WIDTH = 220.0
_MAX_VALUES = 10


@dataclass(frozen=True, kw_only=True)
class Example:
    """One error, with what each probe made of it."""

    item: str
    row: int
    failure: FailureClass
    probability: float
    label: int
    score: float
    threshold: float
    slices: tuple[str, ...]
    probes: tuple[tuple[str, float, bool, str], ...]
    """(probe, score, cured, what was changed), cures first."""


def examples_of(diagnosis: Diagnosis, *, each: int = 2) -> tuple[Example, ...]:
    """The clearest errors of each class, most frequent class first."""
    posterior, rows, table = diagnosis.classified.posterior_EC, diagnosis.classified.rows, diagnosis.table
    seen, found = np.zeros(len(rows)), []
    for scores in table.probes.values():
        seen += np.isfinite(scores[rows])
    for c in sorted(range(len(CLASSES)), key=lambda column: -posterior[:, column].sum() if len(rows) else 0):
        clearest = np.lexsort((-seen, -np.round(posterior[:, c], 2)))
        for e in [e for e in clearest if posterior[e].argmax() == c][:each]:
            row = int(rows[e])
            found.append(Example(
                item=str(table.ids[row]), row=row, failure=CLASSES[c], probability=float(posterior[e, c]),
                label=int(table.labels[row]), score=float(table.scores[row]), threshold=float(table.thresholds[row]),
                slices=tuple(f"{name} {column[row]}" for name, column in table.slices.items() if column[row]),
                probes=_probes_of(diagnosis, row),
            ))
    return tuple(found)


def _probes_of(diagnosis: Diagnosis, row: int) -> tuple[tuple[str, float, bool, str], ...]:
    table, found = diagnosis.table, []
    for name, scores in table.probes.items():
        if np.isfinite(scores[row]):
            cured = bool((scores[row] >= table.thresholds[row]) == (table.labels[row] == 1))
            words = " and ".join(PROBES[part].summary for part in name.split("+"))
            found.append((name, float(scores[row]), cured, words))
    return tuple(sorted(found, key=lambda one: (not one[2], one[0])))


def write_diagnosis(
    diagnosis: Diagnosis,
    gains: Sequence[Gain],
    folder: Path,
    *,
    title: str = "Diagnosis",
    slices: Sequence[FailureSlice] = (),
    clusters: Sequence[FailureSlice] = (),
    shown: Mapping[str, Shown] | None = None,
    shapley: Mapping[str, float] | None = None,
    judged_by: str = "the rules",
    notices: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write ``diagnosis.html`` and ``diagnosis.json`` into ``folder``; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = diagnosis.to_dict() | {
        "judged_by": judged_by, "interventions": [gain.to_dict() for gain in gains], "notices": list(notices),
        "slices": [_slice_dict(one) for one in slices], "clusters": [_slice_dict(one) for one in clusters],
        "shapley": dict(shapley or {}), "examples": [_example_dict(one) for one in examples_of(diagnosis)],
    }
    machine = folder / "diagnosis.json"
    _replace(machine, json.dumps(data, indent=1, allow_nan=False) + "\n")
    style = (Path(__file__).parent / "templates" / "diagnosis.css").read_text(encoding="utf-8")
    page = _environment().get_template("diagnosis.html.j2").render(
        title=title, written_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), style=Markup(style),  # noqa: S704
        style_hash="sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(), d=diagnosis,
        judged_by=judged_by, notices=notices, verdict=_verdict(diagnosis, gains), classes=_classes(diagnosis),
        ranking=diagnosis.ranking[:5], gains=_gain_rows(gains), signatures=_signature_rows(diagnosis),
        places=_places(diagnosis), margin_bins=_margins(diagnosis), slices=slices, clusters=clusters,
        shapley=sorted((shapley or {}).items(), key=lambda pair: -pair[1]), examples=examples_of(diagnosis),
        shown=shown or {}, taxonomy=TAXONOMY, names=_names(), min_errors=MIN_ERRORS, none=NONE,
    )
    human = folder / "diagnosis.html"
    _replace(human, page)
    return human, machine


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(part, path)


def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("tidegate.diagnosis", "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value, digits=3: "–" if not math.isfinite(value) else f"{value:.{digits}f}"
    environment.filters["signed"] = lambda value, digits=3: "–" if not math.isfinite(value) else f"{value:+.{digits}f}"
    return environment


def _names() -> dict[str, str]:
    return {c.value: TAXONOMY[c].name if c in TAXONOMY else "undetermined" for c in CLASSES} | {NONE: "no fault"}


def _verdict(diagnosis: Diagnosis, gains: Sequence[Gain]) -> str:
    """The answer in one or two sentences."""
    errors = len(diagnosis.classified.rows)
    if not errors:
        return "This run has no errors."
    name, probability = diagnosis.ranking[0]
    if errors < MIN_ERRORS:
        return f"{errors} errors are too few to say what is wrong with the run; each can be looked at below."
    if name == NONE:
        return (f"No single cause stands out (probability {probability:.0%}): the {errors} errors look like those of "
                "any model at this quality.")
    count = diagnosis.counts[FailureClass(name)]
    text = (f"{_names()[name].capitalize()} ({name}) stands out, with probability {probability:.0%}: it explains about "
            f"{count.estimate:.0f} [{count.low:.0f}, {count.high:.0f}] of {errors} errors.")
    best = next((gain for gain in gains if FailureClass(name) in gain.classes and gain.f1.estimate > 0), None)
    if best is not None:
        text += (f" First thing to try: {best.summary} (F1 {best.f1.estimate:+.3f} "
                 f"[{best.f1.low:+.3f}, {best.f1.high:+.3f}]).")
    return text


def _classes(diagnosis: Diagnosis) -> dict[str, Any]:
    found = [c for c in CLASSES if diagnosis.counts[c].estimate >= 0.5]
    shown = sorted(found, key=lambda c: -diagnosis.counts[c].estimate)
    axis = axis_of([diagnosis.counts[c] for c in shown], width=_WIDTH, whole=True)
    rows = [(c.value, _names()[c.value], diagnosis.counts[c],
             bar(diagnosis.counts[c], axis, f"{diagnosis.counts[c].estimate:.1f} errors"),
             TAXONOMY[c].signature if c in TAXONOMY else "no cause is clear, or several are as likely") for c in shown]
    return {"axis": axis, "rows": rows}


def _gain_rows(gains: Sequence[Gain], *, most: int = 14) -> dict[str, Any]:
    kept = [gain for gain in gains if abs(gain.f1.estimate) >= 5e-4][:most]
    axis = axis_of([gain.f1 for gain in kept], width=_WIDTH)
    rows: list[tuple[Gain, Bar]] = [(gain, bar(gain.f1, axis, f"F1 {gain.f1.estimate:+.3f}")) for gain in kept]
    return {"axis": axis, "rows": rows, "left_out": len(gains) - len(kept)}


def _signature_rows(diagnosis: Diagnosis) -> dict[str, Any]:
    kept = sorted(diagnosis.signatures, key=lambda one: -one.excess.estimate)
    axis = axis_of([one.excess for one in kept], width=_WIDTH)
    rows = [(one, bar(one.excess, axis, f"{one.excess.estimate:+.2f}"),
             " and ".join(PROBES[part].summary for part in one.probe.split("+"))) for one in kept]
    return {"axis": axis, "rows": rows}


def _places(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """For each metadata column: expected errors by value and class, the most erring values first."""
    rows, posterior, places = diagnosis.classified.rows, diagnosis.classified.posterior_EC, []
    used = [c for c in range(len(CLASSES)) if len(rows) and posterior[:, c].sum() >= 0.5]
    columns = {"stage": _stages(diagnosis), "verdict": _sides(diagnosis)} | dict(diagnosis.table.slices)
    for name, column in columns.items():
        values = [str(value) for value in np.unique(column[rows]) if value] if len(rows) else []
        if not values or (len(values) == 1 and name in ("stage", "verdict")):
            continue
        counts = np.asarray([posterior[column[rows] == value][:, used].sum(axis=0) for value in values])
        order = np.argsort(-counts.sum(axis=1), kind="stable")[:_MAX_VALUES]
        items = [(values[k], int((column == values[k]).sum()), int((column[rows] == values[k]).sum())) for k in order]
        places.append({"name": name, "classes": [CLASSES[c].value for c in used], "left_out": len(values) - len(order),
                       "rows": list(zip(items, heat(counts[order]), strict=True))})
    return places


def _stages(diagnosis: Diagnosis) -> Any:
    escalated = diagnosis.table.escalated
    return np.full(len(diagnosis.table), "single") if escalated is None else np.where(escalated, "large", "base")


def _sides(diagnosis: Diagnosis) -> Any:
    return np.where(diagnosis.table.labels == 1, "missed", "false alarm")


def _margins(diagnosis: Diagnosis) -> list[tuple[float, float, str]]:
    margin = margins(diagnosis.table)
    side = np.where(diagnosis.table.flagged, 1.0, -1.0) * margin
    known = np.isfinite(side)
    if not known.any():
        return []
    reach = float(np.quantile(np.abs(side[known]), 0.98)) or 1.0
    return histogram(np.clip(side[known], -reach, reach), diagnosis.table.errors[known], np.linspace(-reach, reach, 25))


def _slice_dict(one: FailureSlice) -> dict[str, Any]:
    return {"description": one.description, "items": len(one.rows), "errors": one.errors, "rate": one.rate.estimate,
            "low": one.rate.low, "high": one.rate.high, "p_value": one.p_value if math.isfinite(one.p_value) else None}


def _example_dict(one: Example) -> dict[str, Any]:
    return {"id": one.item, "class": one.failure.value, "probability": one.probability, "label": one.label,
            "score": one.score if math.isfinite(one.score) else None, "threshold": one.threshold,
            "slices": list(one.slices), "cured_by": [name for name, _, cured, _ in one.probes if cured]}
