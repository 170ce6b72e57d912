"""What a person sees of training and evaluation: progress on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from tidegate.evaluation import Interval
from tidegate.training.evaluate import EvaluationReport
from tidegate.training.stage import Progress

__all__ = ["console_progress", "print_reports"]


@contextmanager
def console_progress() -> Iterator[Progress]:
    """Progress bars of decoding and of training steps."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        decode = bars.add_task("decode", visible=False)
        step = bars.add_task("train", visible=False)

        def on_step(done: int, total: int, loss: float) -> None:
            bars.update(step, completed=done, total=total, visible=True, description=f"train, loss {loss:.3f}")

        def on_epoch(record: dict[str, float]) -> None:
            console.print(
                f"epoch {record['epoch']:.0f}: loss {record['loss']:.3f}, validation AP {record['validation_ap']:.3f}, "
                f"AUC {record['validation_auc']:.3f}, {record['seconds']:.0f} s"
            )

        yield Progress(
            on_decode=lambda done, total: bars.update(decode, completed=done, total=total, visible=True),
            on_step=on_step,
            on_epoch=on_epoch,
            on_note=console.print,
        )


def _cell(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def print_reports(reports: Sequence[EvaluationReport]) -> None:
    """One column a report."""
    table = Table(title=f"{reports[0].n} videos, {reports[0].n_positives} positive; 95 % cluster-bootstrap intervals")
    table.add_column("")
    for report in reports:
        table.add_column(report.name)
    table.add_row("F1", *(_cell(report.f1) for report in reports))
    table.add_row("AUC", *(_cell(report.auc) for report in reports))
    table.add_row("AP", *(_cell(report.average_precision) for report in reports))
    for index, row in enumerate(reports[0].recall):
        name = f"R@P{row.precision_percent} {row.meaning}"
        table.add_row(name, *(_cell(report.recall[index].recall) for report in reports))
    shares = ["" if item.escalated_share is None else f"{item.escalated_share:.1%}" for item in reports]
    if any(shares):
        table.add_row("escalated", *shares)
    table.add_row("failed to decode", *(str(report.n_failed) for report in reports))
    Console().print(table)
