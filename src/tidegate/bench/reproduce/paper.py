"""The figures of arXiv 2412.10435, tables 1 to 6, in per cent, as printed there.

Task: ``icd`` inappropriate content, ``ucc`` unoriginal content. Tables 3 to 6 are on ``ucc`` only. "Base" of ``icd`` is
a ResNet-50 that sees frames only, of ``ucc`` a multi-tower model (Swin, XLM-R, Whisper-base).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMNS", "TABLES", "PaperRow", "Table"]

COLUMNS = ("F1", "R@P60", "R@P70", "R@P80", "R@P90")
_Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One printed row."""

    task: str
    name: str
    values: _Values
    """F1, R@P60, R@P70, R@P80, R@P90 in per cent; None where the paper prints none."""
    parameters: str = ""
    qps_ratio: float | None = None
    """Per cent of the videos that reach the large model."""

    def value(self, column: str) -> float | None:
        """The figure of a column, in per cent."""
        return self.values[COLUMNS.index(column)]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the paper."""

    number: int
    title: str
    rows: tuple[PaperRow, ...]

    def row(self, task: str, name: str) -> PaperRow:
        """The row of that task and name."""
        return next(row for row in self.rows if (row.task, row.name) == (task, name))


def _rows(task: str, lines: tuple[tuple[str, _Values], ...]) -> tuple[PaperRow, ...]:
    return tuple(
        PaperRow(task=task, name=name, values=(*values, *(None,) * (5 - len(values)))) for name, values in lines
    )


def _table1() -> Table:
    lines = (
        ("icd", "Base", "25M", (59.1, 57.6, 44.1, 27.9, 20.2)),
        ("icd", "SigLIP", "679M", (64.5, 68.7, 58.3, 42.9, 29.3)),
        ("icd", "MLLM (w/o audio)", "8.3B", (67.8, 72.4, 62.2, 53.1, 39.4)),
        ("ucc", "Base", "564M", (77.6, 89.8, 84.5, 74.8, 54.1)),
        ("ucc", "SigLIP", "699M", (75.8, 87.4, 80.1, 71.1, 51.2)),
        ("ucc", "MLLM", "8.4B", (80.5, 92.3, 87.8, 79.3, 62.2)),
    )
    rows = tuple(PaperRow(task=t, name=n, parameters=p, values=v) for t, n, p, v in lines)
    return Table(number=1, title="MLLM against the base model and SigLIP", rows=rows)


def _table2() -> Table:
    lines = (
        ("icd", "MLLM alone", 100.0, (72.4, 62.2, 53.1, 39.4)),
        ("icd", "P_base 10", 4.45, (71.0, 62.4, 52.0, 39.2)),
        ("icd", "P_base 20", 2.06, (70.4, 62.7, 53.1, 38.8)),
        ("icd", "P_base 30", 1.27, (59.6, 57.6, 55.7, 38.6)),
        ("ucc", "MLLM alone", 100.0, (92.3, 87.8, 79.3, 62.2)),
        ("ucc", "P_base 50", 16.7, (91.2, 86.9, 79.8, 62.6)),
        ("ucc", "P_base 60", 13.3, (89.6, 85.4, 79.9, 62.3)),
        ("ucc", "P_base 70", 10.8, (88.4, 83.1, 77.7, 62.8)),
    )
    rows = tuple(PaperRow(task=t, name=n, qps_ratio=q, values=(None, *v)) for t, n, q, v in lines)
    return Table(number=2, title="The cascade at several base precisions", rows=rows)


TABLES: dict[int, Table] = {
    1: _table1(),
    2: _table2(),
    3: Table(
        number=3,
        title="Early against late fusion of audio",
        rows=_rows("ucc", (("Early fusion", (79.9, 93.2, 88.2, 78.7)), ("Late fusion", (80.5, 92.3, 87.8, 79.3)))),
    ),
    4: Table(
        number=4,
        title="Rank and alpha of LoRA",
        rows=_rows(
            "ucc",
            (
                ("0, 0", (65.6, 69.7, 60.3, 48.2)),
                ("2, 4", (79.7, 92.4, 86.9, 79.5)),
                ("8, 16", (79.9, 92.8, 87.4, 77.3)),
                ("32, 64", (80.5, 92.3, 87.8, 79.3)),
                ("128, 256", (79.7, 92.6, 86.8, 79.1)),
                ("512, 1024", (79.6, 92.7, 88.6, 78.8)),
            ),
        ),
    ),
    5: Table(
        number=5,
        title="Share of the training data",
        rows=_rows(
            "ucc",
            (
                ("20% Base", (73.5, 85.2, 77.4, 64.1)),
                ("20% MLLM", (77.8, 90.6, 84.3, 74.4)),
                ("40% Base", (74.5, 86.3, 78.5, 67.4)),
                ("40% MLLM", (78.4, 91.1, 86.1, 76.1)),
                ("60% Base", (76.3, 87.9, 81.8, 72.2)),
                ("60% MLLM", (79.5, 91.6, 87.1, 78.0)),
                ("100% Base", (77.6, 89.8, 84.5, 74.8)),
                ("100% MLLM", (80.5, 92.3, 87.8, 79.3)),
            ),
        ),
    ),
    6: Table(
        number=6,
        title="What the parts of the MLLM contribute",
        rows=_rows(
            "ucc",
            (
                ("MLLM", (80.5, 92.3, 87.8, 79.3)),
                ("(a) w/o audio", (78.8, 92.3, 86.5, 76.1)),
                ("(b) w/o video text", (78.7, 91.9, 84.8, 77.2)),
                ("(c) smaller audio tower", (79.7, 92.4, 88.3, 77.9)),
            ),
        ),
    ),
}
"""The tables by number."""
