"""The paper's rows beside ours, and where the orderings agree.

Enters: rows of figures of one table. Leaves: ``TableReport``, which prints as Markdown and as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.bench.reproduce.figures import Figures, RowScores, difference, figures_of
from tidegate.bench.reproduce.paper import COLUMNS, TABLES, PaperRow
from tidegate.bench.reproduce.trials import LOW_PREVALENCE, PAIRS
from tidegate.evaluation import Interval, markdown_table

__all__ = ["Comparison", "TableReport", "report_table"]

Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One pair of rows in one column."""

    task: str
    row: str
    other: str
    column: str
    paper: float
    """Row minus other, per cent points."""
    ours: Interval
    """Row minus other, as shares."""

    @property
    def agrees(self) -> bool:
        """Whether the sign is the paper's."""
        return self.ours.estimate * self.paper > 0 or (self.ours.estimate == 0 and self.paper == 0)

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.ours.low > 0 or self.ours.high < 0

    @property
    def word(self) -> str:
        """``agrees``, ``opposite``, or either in brackets where the interval holds 0."""
        word = "agrees" if self.agrees else "opposite"
        return word if self.clear else f"({word})"


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """A table of the paper and ours."""

    number: int
    issue: str
    figures: Mapping[Key, Figures]
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        table = TABLES[self.number]
        rows = [
            {
                "task": task,
                "name": name,
                "paper": {column: table.row(task, name).value(column) for column in COLUMNS},
                "paper_qps_ratio": table.row(task, name).qps_ratio,
                "ours": {column: _plain(value) for column, value in one.values.items()},
                "deviation_over_seeds": {column: _number(value) for column, value in one.deviation.items()},
                "parameters": one.num_parameters,
                "qps_ratio": one.qps_ratio,
                "seeds": one.seeds,
            }
            for (task, name), one in self.figures.items()
        ]
        pairs = [
            {**{k: v for k, v in vars(one).items() if k != "ours"}, "ours": _plain(one.ours), "verdict": one.word}
            for one in self.comparisons
        ]
        return {"table": self.number, "title": table.title, "our_issue": self.issue, "rows": rows, "pairs": pairs}

    def to_markdown(self) -> str:
        """Both tables, one below the other."""
        table = TABLES[self.number]
        rows = [_row(table.row(*key), figures) for key, figures in self.figures.items()]
        text = [f"### Table {self.number}: {table.title}", "", markdown_table(rows), "", *self._pair_lines()]
        return "\n".join(text)

    def _pair_lines(self) -> list[str]:
        rows: dict[Key, dict[str, object]] = {}
        for one in self.comparisons:
            row = rows.setdefault((one.task, f"{one.row} - {one.other}"), {})
            row["row pair (paper's task)"] = f"{one.row} − {one.other} ({one.task})"
            row[one.column] = f"{one.paper:+.1f} / {100 * one.ours.estimate:+.1f} {one.word}"
        columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
        filled = [
            {"row pair (paper's task)": row["row pair (paper's task)"], **{c: row.get(c, "") for c in columns}}
            for row in rows.values()
        ]
        agreeing = sum(one.agrees for one in self.comparisons)
        against = sum(one.clear and not one.agrees for one in self.comparisons)
        total = len(self.comparisons)
        return [
            "Differences in per cent points, paper / ours; in brackets where our 95 % interval holds 0:",
            "",
            markdown_table(filled),
            "",
            f"Of {total} comparisons {agreeing} have the paper's sign; {against} are clearly opposite.",
        ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(interval: Interval) -> dict[str, float | None]:
    return {name: _number(getattr(interval, name)) for name in ("estimate", "low", "high")}


def _row(paper: PaperRow, ours: Figures) -> dict[str, object]:
    row: dict[str, object] = {"paper's task": paper.task, "row": paper.name}
    if paper.parameters:
        row["parameters: paper"], row["ours"] = paper.parameters, f"{ours.num_parameters / 1e6:.2f}M"
    if paper.qps_ratio is not None and ours.qps_ratio is not None:
        row["QPS ratio: paper"], row["ours"] = f"{paper.qps_ratio:g}", f"{100 * ours.qps_ratio:.1f}"
    for column in COLUMNS:
        printed = paper.value(column)
        if column not in ours.values or (printed is None and column == "F1"):
            continue
        interval = ours.values[column]
        mine = f"{100 * interval.estimate:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        row[f"{column}: paper / ours"] = f"{'–' if printed is None else f'{printed:.1f}'} / {mine}"
    row["sd over seeds, R@P80"] = "–" if ours.seeds < 2 else f"{100 * ours.deviation['R@P80']:.1f}"
    return row


def report_table(number: int, issue: str, rows: Mapping[Key, RowScores], *, num_samples: int) -> TableReport:
    """Figures of all rows, and the comparisons of the paper's pairs, where the paper's figures differ."""
    figures = {key: figures_of(row, num_samples=num_samples) for key, row in rows.items()}
    comparisons = [
        Comparison(
            task=task,
            row=name,
            other=other,
            column=column,
            paper=round(mine - theirs, 2),
            ours=difference(rows[task, name], rows[task, other], column, num_samples=num_samples),
        )
        for task, name, other in PAIRS[number]
        if (task, name) in rows and (task, other) in rows
        for column in COLUMNS
        if (mine := TABLES[number].row(task, name).value(column)) is not None
        and (theirs := TABLES[number].row(task, other).value(column)) is not None
        and mine != theirs
    ]
    return TableReport(number=number, issue=issue, figures=figures, comparisons=tuple(comparisons))


PREVALENCE_NOTE = (
    f"Rows of the task icd in table 2 are computed at a prevalence of {LOW_PREVALENCE:.0%} (precisions and shares "
    "transported from the test split), since P_base 10 to 30 lies below the prevalence of a balanced corpus."
)
