"""``tidegate demo``: a small set of videos through the whole cascade, from making them to the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.scan import exit_code, open_scanner, run_scan, said_plainly, table_console, verdict_table, write_files

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.corpus.manifest import Manifest
    from tidegate.types import Outcome

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("demo")(demo)


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for videos, index and report.")] = Path("out/demo"),
    videos: Annotated[Path | None, typer.Option(help="Scan this folder instead of making videos.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many synthetic videos to make.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic videos.")] = 2026,
    preset: Annotated[str, typer.Option(help="Preset, or a folder with checkpoints in base and large.")] = "tiny",
) -> None:
    """Moderate a small synthetic set of videos (or a folder of yours) with the embedded preset."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with said_plainly(console):
        from tidegate.pipeline.sink import FolderSink
        from tidegate.pipeline.source import Source

        manifest = None if videos is not None else _make_videos(out / "corpus", count, seed, console)
        source = Source([videos] if videos is not None else [entry.path for entry in manifest or ()])
        agreement = _Agreement(manifest)
        _forget_earlier(out)
        with open_scanner(preset) as scanner, FolderSink(out) as sink:
            runner = scanner.runner(sink)
            tally = run_scan(runner, source, console, watch=agreement.add)
            written = write_files(sink, scanner, console, report=True)
    shown = table_console()
    shown.print(verdict_table(tally))
    share = tally.escalated_share
    reached = "none was decided" if share is None else f"{share:.0%} reached the large stage"
    shown.print(f"{tally.seen} videos; {reached}")
    agreement.print(shown)
    for notice in scanner.notices:
        shown.print(notice, style="yellow", markup=False)
    for name, path in {"index": written[0], "report": written[-1]}.items():
        shown.print(f"{name}: {path}", markup=False, soft_wrap=True)
    raise typer.Exit(exit_code(tally, runner))


def _make_videos(folder: Path, count: int, seed: int, console: Console) -> Manifest:
    """The synthetic videos; finished ones of an earlier call are kept."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from tidegate.corpus.synthetic import SyntheticConfig, make_corpus

    workers = len(os.sched_getaffinity(0))
    columns = (TextColumn("making videos"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=count)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return make_corpus(SyntheticConfig(out=folder, videos=count, seed=seed, workers=workers), advance)


def _forget_earlier(out: Path) -> None:
    """A demo shows this run alone: the index and the exports of an earlier one go."""
    from tidegate.pipeline.source import OWN_OUTPUTS

    for name in OWN_OUTPUTS:
        (out / name).unlink(missing_ok=True)


class _Agreement:
    """How often the verdict is what the maker of the videos knows."""

    def __init__(self, manifest: Manifest | None) -> None:
        self._truth = {} if manifest is None else {os.fspath(entry.path): entry.labels.get("icd") for entry in manifest}
        self._decided = self._agreed = 0

    def add(self, outcome: Outcome) -> None:
        truth = self._truth.get(outcome.path)
        if truth is not None and outcome.status in {"remained", "removed"}:
            self._decided += 1
            self._agreed += (outcome.status == "removed") == bool(truth)

    def print(self, console: Console) -> None:
        if self._decided:
            console.print(f"{self._agreed} of {self._decided} verdicts agree with what was put into the videos")
