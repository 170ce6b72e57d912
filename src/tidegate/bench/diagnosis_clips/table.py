"""The report of the benchmark on clips: the same table, what is said beside it, and a line a run.

Enters: rows of ``runs``. Leaves: ``ClipReport`` and Markdown. Intervals resample runs, for all runs share their clips
and their judge: they say how sure the figures are for these clips, not for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.bench.diagnosis import DiagnosisReport, render
from tidegate.bench.diagnosis_clips.faults import Bench
from tidegate.bench.diagnosis_score import counted, score
from tidegate.diagnosis.planted.world import f1_of
from tidegate.evaluation import best_f1, bootstrap_interval, clopper_pearson, markdown_table, roc_auc

__all__ = ["ClipReport", "clip_report", "render_clips"]

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClipReport:
    """Scores and the rows behind them."""

    scores: dict[str, Any]
    about: dict[str, Any]
    """The judge without a fault, and the items."""
    learned: dict[str, Any]
    """How the shipped classifier names the same tables; empty if there is none."""
    rows: list[Row]
    planned: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the figures by name at the top, details below."""
        return {**self.scores, "about": self.about, "learned": self.learned, "planned": self.planned,
                "seconds": self.seconds, "runs_in_detail": self.rows}


def clip_report(rows: list[Row], bench: Bench, about: dict[str, Any], planned: int, seconds: float) -> ClipReport:
    """Everything that is said of these runs."""
    return ClipReport(scores=score(rows), about={**about, **_without_fault(bench)}, learned=_learned(rows), rows=rows,
                      planned=planned, seconds=seconds)


def _without_fault(bench: Bench) -> dict[str, Any]:
    table = bench.diagnosed.table()
    known = table.scores == table.scores
    arrays = (table.labels[known], table.scores[known])
    auc = bootstrap_interval(roc_auc, *arrays, clusters=table.sources[known].tolist(), seed=0)
    return {
        "diagnosed_items": len(table), "measured_items": len(bench.measured.rows), "positives": int(table.labels.sum()),
        "sources": len(set(table.sources.tolist())), "errors_without_fault": int(table.errors.sum()),
        "auc": str(auc), "f1": f1_of(table.flagged, table.labels),
        "best_f1": float(best_f1(*arrays)[0]), "least_extra_errors": bench.least_extra_errors,
        "escalated": None if table.escalated is None else float(table.escalated.mean()),
    }  # fmt: skip


def _learned(rows: Sequence[Row]) -> dict[str, Any]:
    """Named first by the shipped classifier, with exact binomial intervals."""
    judged = [row for row in rows if "learned" in row]
    groups = {
        "top1": [row for row in judged if counted(row) and row["family"] == "fitting"],
        "heldout_top1": [row for row in judged if counted(row) and row["family"] == "held_out"],
        "false_alarm": [row for row in judged if row["truth"] == "none"],
    }
    found = {}
    for name, group in groups.items():
        hits = sum((row["learned"][0][0] == row["truth"]) is (name != "false_alarm") for row in group)
        found[name] = {"value": str(clopper_pearson(hits, len(group))) if group else "n/a", "n": len(group)}
    return found if judged else {}


def render_clips(report: ClipReport) -> str:
    """Markdown of all figures."""
    about = "; ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in report.about.items())
    same = render(DiagnosisReport(scores=report.scores, seconds=report.seconds, classifier="the rules"))
    learned = [{"figure": name, "value and exact 95 % interval": one["value"], "runs": one["n"]}
               for name, one in report.learned.items()]
    parts = [f"Without a fault: {about}. {report.scores['runs']} of {report.planned} planned runs.", same]
    if learned:
        parts += ["The shipped classifier on the same tables, beside the rules:", markdown_table(learned)]
    return "\n\n".join([*parts, "Every run:", markdown_table([_line(row) for row in report.rows])])


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _line(row: Row) -> dict[str, object]:
    names = [name for name, _ in row["ranking"]]
    place = names.index(row["truth"]) + 1 if row["truth"] in names else "–"
    brought = row.get("realised", {})
    best = max(brought, key=lambda name: brought[name]) if brought else ""
    return {
        "truth": row["truth"], "mechanism": row["mechanism"] or "nothing", "severity": row["severity"],
        "slice": f"{row['column']} {row['share']:.0%}" if row["column"] else "", "errors": row["errors"],
        "extra": row["extra_errors"], "counts": "yes" if counted(row) else "no", "named": names[0],
        "with": row["ranking"][0][1], "place of truth": place, "learned": row.get("learned", [["–"]])[0][0],
        "best realised": f"{best} {brought[best]:+.3f}" if best else "–",
        "recommended": f"{row['recommended']} {brought[row['recommended']]:+.3f}" if row.get("recommended") else "–",
    }  # fmt: skip
