"""``tidegate scan``: files, folders and globs in; verdicts, an index and a report out."""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tidegate.pipeline.runner import Runner, RunStats
    from tidegate.pipeline.scanner import Scanner
    from tidegate.pipeline.sink import FolderSink
    from tidegate.pipeline.source import Source
    from tidegate.types import Outcome

__all__ = ["Tally", "exit_code", "open_scanner", "register", "run_scan", "said_plainly", "table_console",
           "verdict_table", "write_files"]

SOME_FAILED, BAD_USAGE, INTERRUPTED = 3, 2, 130
_ZERO_SHOT_MODEL = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
_EPILOG = """
Examples:

    tidegate scan video.mp4

    tidegate scan uploads/ --out out/uploads --region DE

    tidegate scan 'uploads/**/*.mov' --policy policy.toml --json > verdicts.jsonl

    tidegate scan uploads/ --out out/uploads --resume --retry-failed

    tidegate scan @list.txt corpus/manifest.parquet

    tidegate scan uploads/ --zero-shot 'People drink what is not meant to be drunk.' --device cuda

Exit codes: 0 all scanned, 3 some failed, 2 bad usage, 130 interrupted (start again with --resume).
"""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("scan", epilog=_EPILOG)(scan)


def scan(
    paths: Annotated[list[str], typer.Argument(
        metavar="PATH", show_default=False,
        help="Files, folders, globs in quotes, manifests (.parquet, .csv), or @FILE with one path a line.",
    )],
    *,
    policy: Annotated[Path | None, typer.Option(help="Policy file (TOML); without it the default policy.")] = None,
    preset: Annotated[str, typer.Option(
        help="Preset, a folder with checkpoints in base and large, or a stage file (.toml)."
    )] = "tiny",
    zero_shot: Annotated[str | None, typer.Option(
        metavar="CLAUSE", help="No training: judge by this rule, in words. PRESET is then a LLaVA-OneVision hub id or "
        "folder; without one, the 0.5 B model.",
    )] = None,
    out: Annotated[Path, typer.Option(help="Folder for index, JSON Lines, Parquet and report.")] = Path("out/scan"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a video on stdout.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what OUT holds and has not changed.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Resume, and try failed videos again.")] = False,
    region: Annotated[str | None, typer.Option(help="Judge as if shown in this region (ISO 3166-1 alpha-2).")] = None,
    ocr: Annotated[bool, typer.Option("--ocr", help="Read on-screen text (needs the ocr extra; slower).")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one a core.")] = None,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, cuda, cuda:1.")] = "cpu",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    limit_seconds: Annotated[float | None, typer.Option(min=0.1, help="Wall time for reading one video.")] = None,
    max_duration_seconds: Annotated[float | None, typer.Option(min=0.1, help="Longest video allowed.")] = None,
) -> None:
    """Scan videos with a two-stage cascade under a policy."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False)
    with said_plainly(errors):
        from tidegate.pipeline.sink import FolderSink
        from tidegate.pipeline.source import Source

        source = Source(paths, region=None if region is None else region.upper())
        scanner = open_scanner(
            preset, device=device, policy=policy, ocr=ocr, workers=workers, limit_seconds=limit_seconds,
            max_duration_seconds=max_duration_seconds, zero_shot=zero_shot,
        )
        with scanner, FolderSink(out) as sink:
            runner = scanner.runner(sink, resume=resume or retry_failed, retry_failed=retry_failed)
            tally = run_scan(runner, source, errors, as_json=as_json)
            written = write_files(sink, scanner, errors, report=report)
    if not tally.seen and not runner.interrupted:
        errors.print(f"error: no video found in {', '.join(paths)} ({_left_out(source)})", style="red", markup=False)
        raise typer.Exit(BAD_USAGE)
    shown = errors if as_json else table_console()
    shown.print(verdict_table(tally))
    _say_end(errors, tally, stats=runner.stats, source=source, written=written, scanner=scanner)
    raise typer.Exit(exit_code(tally, runner))


@contextlib.contextmanager
def said_plainly(errors: Console) -> Iterator[None]:
    """What the user can mend is one line on stderr and exit code 2."""
    from tidegate.errors import TidegateError

    try:
        yield
    except TidegateError as error:
        errors.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(BAD_USAGE) from error


def open_scanner(
    preset: str,
    *,
    device: str = "cpu",
    policy: Path | None = None,
    ocr: bool = False,
    workers: int | None = None,
    limit_seconds: float | None = None,
    max_duration_seconds: float | None = None,
    zero_shot: str | None = None,
) -> Scanner:
    """The scanner that the options ask for."""
    from tidegate.media import Limits
    from tidegate.pipeline.scanner import Scanner, ScanSettings, load_preset

    limits = {"max_wall_seconds": limit_seconds, "max_duration_seconds": max_duration_seconds}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    settings: dict[str, Any] = {} if workers is None else {"workers": workers}
    reader = None
    if ocr:
        from tidegate.pipeline.ocr import PaddleReader

        reader = PaddleReader()
    chosen = ScanSettings(limits=Limits(**given), **settings)
    if zero_shot is None:
        return load_preset(preset, device=device, policy=policy, settings=chosen, on_screen_text=reader)
    from tidegate.pipeline.policy_file import read_policy
    from tidegate.pipeline.stage_file import zero_shot_stages

    source = _ZERO_SHOT_MODEL if preset == "tiny" else preset
    return Scanner(
        zero_shot_stages(source, zero_shot, device=device), policy=None if policy is None else read_policy(policy),
        settings=chosen, on_screen_text=reader,
    )


@dataclass
class Tally:
    """What a run came to; memory does not grow with the number of videos."""

    max_rows: int = 40
    seen: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    escalated: int = 0
    _rows: list[tuple[tuple[float, ...], Outcome]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome; keep it if it is among the most interesting."""
        self.seen += 1
        self.by_status[outcome.status] += 1
        self.escalated += outcome.escalated
        rank = {"removed": 3.0, "failed": 2.0, "ignored": 1.0, "remained": 0.0}[outcome.status]
        entry = ((rank, outcome.score or 0.0, -float(next(self._order))), outcome)
        if len(self._rows) < self.max_rows:
            heapq.heappush(self._rows, entry)
        else:
            heapq.heappushpop(self._rows, entry)

    @property
    def rows(self) -> list[Outcome]:
        """The most interesting outcomes: removed first, then failed, by score."""
        return [outcome for _, outcome in sorted(self._rows, key=lambda entry: entry[0], reverse=True)]

    @property
    def escalated_share(self) -> float | None:
        """Share of decided videos that a later stage looked at."""
        decided = self.seen - self.by_status["failed"]
        return self.escalated / decided if decided else None


def run_scan(
    runner: Runner,
    source: Source,
    errors: Console,
    *,
    as_json: bool = False,
    watch: Callable[[Outcome], None] | None = None,
) -> Tally:
    """Run to the end, with a progress bar on stderr; Ctrl-C leaves in order."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    tally = Tally()
    columns = (TextColumn("scanning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    total = source.count()
    shown = Progress(
        *columns, TimeElapsedColumn(), console=errors, transient=True, redirect_stdout=False, redirect_stderr=False
    )
    with _stopping(runner, errors), shown as progress:
        task = progress.add_task("", total=total, now="")
        for finished in runner.run(source):
            tally.add(finished.outcome)
            if watch is not None:
                watch(finished.outcome)
            if as_json and not _print_json(finished.outcome):
                runner.stop()
            progress.update(task, completed=tally.seen, now=_counts(tally))
    return tally


@contextlib.contextmanager
def _stopping(runner: Runner, errors: Console) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) stops the run in order, the second one at once."""

    def on_signal(_number: int, _frame: object) -> None:
        if runner.stop_asked:
            os._exit(INTERRUPTED)
        runner.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if runner.stop_asked:
            errors.print("stopped: what is done is written; start again with --resume to go on")


def _print_json(outcome: Outcome) -> bool:
    from tidegate.pipeline.index import outcome_to_json

    try:
        sys.stdout.buffer.write(outcome_to_json(outcome).encode("utf-8") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def write_files(sink: FolderSink, scanner: Scanner, errors: Console, *, report: bool) -> list[Path]:
    """The exports of all that the folder's index holds; says where they are."""
    sink.finish()
    written = [sink.folder / name for name in ("index.sqlite", "outcomes.jsonl", "outcomes.parquet")]
    if report:
        from tidegate.report import write_report

        notice = " ".join(scanner.notices) or None
        with errors.status("writing the report"):
            written.append(
                write_report(sink.records(), sink.evidence_folder, sink.folder / "report.html", notice=notice)
            )
    return written


def table_console() -> Console:
    """Where tables go: stdout, as wide as the terminal, or wide enough to read in a file."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def verdict_table(tally: Tally) -> Table:
    """The verdicts, the most interesting first."""
    from rich.table import Table
    from rich.text import Text

    styles = {"removed": "red", "failed": "magenta", "ignored": "yellow", "remained": "green"}
    more = tally.seen - tally.max_rows
    table = Table(caption=f"{more} more in outcomes.jsonl" if more > 0 else None, expand=True)
    table.add_column("video", no_wrap=True, ratio=2)
    for name, width in {"status": 8, "score": 5, "stage": 6, "escalated": 9, "seconds": 7}.items():
        right = name in {"score", "seconds"}
        table.add_column(name, justify="right" if right else "left", no_wrap=True, width=width)
    table.add_column("why", no_wrap=True, ratio=5)
    for outcome in tally.rows:
        table.add_row(
            Text(_terminal_safe(os.path.basename(outcome.path) or outcome.path)),
            Text(outcome.status, style=styles[outcome.status]),
            "" if outcome.score is None else f"{outcome.score:.3f}",
            outcome.stage or "",
            "yes" if outcome.escalated else "",
            "" if outcome.duration_seconds is None else f"{outcome.duration_seconds:.1f}",
            Text(_terminal_safe(outcome.reason)),
        )
    return table


def _terminal_safe(text: str) -> str:
    """Names and reasons come from strangers: no control characters reach the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _counts(tally: Tally) -> str:
    return ", ".join(f"{number} {status}" for status, number in sorted(tally.by_status.items()))


def _left_out(source: Source) -> str:
    return ", ".join(f"{number} {why}" for why, number in sorted(source.skipped.items())) or "nothing was left out"


def _say_end(
    errors: Console, tally: Tally, *, stats: RunStats, source: Source, written: list[Path], scanner: Scanner
) -> None:
    share = tally.escalated_share
    reached = "none was decided" if share is None else f"{share:.0%} reached a later stage"
    errors.print(f"{tally.seen} videos: {_counts(tally)}; {reached}", markup=False)
    if stats.resumed:
        errors.print(f"{stats.resumed} of them were done already", markup=False)
    if source.skipped:
        errors.print(f"left out: {_left_out(source)}", markup=False)
    for notice in scanner.notices:
        errors.print(notice, style="yellow", markup=False)
    for path in written:
        errors.print(f"  {path}", markup=False)


def exit_code(tally: Tally, runner: Runner) -> int:
    """0 all scanned, 3 some failed, 130 interrupted."""
    if runner.interrupted:
        return INTERRUPTED
    return SOME_FAILED if tally.by_status["failed"] else 0
