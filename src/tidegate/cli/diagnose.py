"""``tidegate diagnose``: why a run fails and what will cure it; ``regions`` and ``drift`` beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.plainly import said_plainly

if TYPE_CHECKING:
    from tidegate.diagnosis.clip_scorer import Progress
    from tidegate.diagnosis.drift import Drift
    from tidegate.diagnosis.investigate import Investigated
    from tidegate.diagnosis.regions import Regions

__all__ = ["register"]

_EPILOG = """
Examples:

    tidegate diagnose --models tiny --data corpus/manifest.parquet

    tidegate diagnose --models checkpoints/ --data corpus/manifest.parquet --split test --reference 300

    tidegate diagnose --run scores.parquet

    tidegate diagnose --run out/scan --data corpus/manifest.parquet --models tiny

    tidegate diagnose regions --run diagnosis/run.parquet --metric recall

    tidegate diagnose drift may.parquet june.parquet --column region

Exit codes: 0 done, 1 a model failed, 2 bad usage.
"""
verb = typer.Typer(name="diagnose", help="Why does a run fail, and what will cure it?", invoke_without_command=True,
                   no_args_is_help=True, epilog=_EPILOG)
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.add_typer(verb)


@verb.callback()
def _diagnose(  # noqa: PLR0917 - one parameter an option
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Option(help="Score file (Parquet, CSV), or a folder with one or of tidegate scan.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest with labels and clips.")] = None,
    models: Annotated[
        str | None, typer.Option(help="Preset, or folder with checkpoints in large (and base): scores and probes.")
    ] = None,
    recogniser: Annotated[
        str | None, typer.Option(help="Whisper checkpoint (hub id or folder): probes with recognised transcripts.")
    ] = None,
    other_policy: Annotated[
        str | None, typer.Option(help="Preset or checkpoint folder of another policy version: probes with its verdict.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report, JSON, probed run and plan.")] = Path("diagnosis"),
    split: Annotated[list[str] | None, typer.Option(help="Split to diagnose; may repeat; all takes every one.")] = None,
    issue: Annotated[str, typer.Option(help="Label to judge by.")] = "icd",
    reference: Annotated[int, typer.Option(help="Training videos to compare with, for novelty and leakage.")] = 0,
    p_base: Annotated[str, typer.Option(help="Base precision in percent, whose tau the cascade uses.")] = "20",
    judge: Annotated[str, typer.Option(help="rules, learned, or auto.")] = "auto",
    probes: Annotated[str, typer.Option(help="adaptive: the most telling ones first; all: every one.")] = "adaptive",
    max_errors: Annotated[int | None, typer.Option(min=1, help="Probe at most so many errors, at random.")] = None,
    controls: Annotated[int, typer.Option(min=10, help="Right items that each probe is run on.")] = 100,
    settled: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Run every probe if the fitted classifier is less sure; 0: never.")
    ] = 0.9,
    confirm: Annotated[
        int, typer.Option(min=0, help="Interventions, most promising first, whose gain is measured on many items.")
    ] = 3,
    ledger: Annotated[Path | None, typer.Option(help="Ledger of past interventions (ledger.jsonl).")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where probe scores are kept; in --out by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Decoding processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of resamples.")] = 0,
    as_json: Json = False,
) -> None:
    """Diagnose a run; progress goes to stderr."""
    if context.invoked_subcommand is not None:
        return
    with said_plainly():
        from tidegate.diagnosis.adaptive import ProbingConfig
        from tidegate.diagnosis.investigate import InvestigationConfig, investigate
        from tidegate.errors import UsageError

        if probes not in ("adaptive", "all"):
            raise UsageError(f"expected --probes adaptive or all, got {probes!r}")
        probing = ProbingConfig(order="all" if probes == "all" else "adaptive", max_errors=max_errors,
                                max_controls=controls, settled=settled, confirm=confirm)
        config = InvestigationConfig(
            out=out, run=run, data=data, models=models, recogniser=recogniser, other_policy=other_policy,
            splits=tuple(split or ("test",)), issue=issue, reference_items=reference, p_base=p_base, judge=judge,
            probing=probing, ledger=ledger, cache=cache, workers=workers, seed=seed,
        )
        with _progress() as progress:
            done = investigate(config, progress=progress)
    _print(done, as_json)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr that says which probe runs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("probing", total=None)
        yield lambda probe, made, total: bars.update(task, description=probe, completed=made, total=total)


def _print(done: Investigated, as_json: bool) -> None:
    if as_json:
        values = json.loads(done.machine.read_text(encoding="utf-8"))
        typer.echo(json.dumps(values | {"report": str(done.report), "plan": str(done.plan)}, allow_nan=False))
        return
    diagnosis = done.diagnosis
    errors = len(diagnosis.classified.rows)
    typer.echo(f"{errors} errors in {len(diagnosis.table)} items; {diagnosis.spent.calls:.0f} model calls on probes")
    for text in (*done.notices, *diagnosis.conclusions):
        typer.echo(f"  note: {text}")
    typer.echo("\nlikeliest cause of the run:")
    for name, probability in diagnosis.ranking[:3]:
        typer.echo(f"  {name:13} {probability:6.1%}")
    typer.echo("\nerrors by class (95 % interval):")
    for failure, count in sorted(diagnosis.counts.items(), key=lambda pair: -pair[1].estimate):
        if count.estimate >= 0.5:
            typer.echo(f"  {failure.value:13} {count.estimate:6.1f}  [{count.low:.0f}, {count.high:.0f}]")
    typer.echo("\nwhat to do (change of F1, 90 % interval, for another sample of this size):")
    for gain in [gain for gain in done.gains if gain.f1.estimate > 5e-4][:6]:
        kind = "computed" if gain.measured else "expected"
        typer.echo(f"  {gain.name:18} {gain.f1.estimate:+.3f} [{gain.f1.low:+.3f}, {gain.f1.high:+.3f}]  {kind}; "
                   f"{gain.detail}")
    typer.echo(f"\nreport {done.report}\nplan   {done.plan}   (tidegate intervene {done.plan})")


@verb.command("regions")
def _regions(  # noqa: PLR0917 - one parameter an option
    run: Annotated[Path, typer.Option(help="Score file, or a folder with one or of tidegate scan.")],
    data: Annotated[Path | None, typer.Option(help="Manifest, for a scan's labels.")] = None,
    column: Annotated[str, typer.Option(help="What a region is: region, language, or another column.")] = "region",
    metric: Annotated[str, typer.Option(help="recall, error_rate or false_alarm_rate.")] = "recall",
    issue: Annotated[str, typer.Option(help="Label to judge by.")] = "icd",
    judge: Annotated[str, typer.Option(help="rules, learned, or auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Quality of every region, shrunken and with honest intervals; the worst first."""
    with said_plainly():
        from tidegate.corpus.manifest import read_manifest
        from tidegate.diagnosis import diagnose
        from tidegate.diagnosis.learned import judge_of
        from tidegate.diagnosis.regions import regions_of
        from tidegate.diagnosis.score_table import read_run
        from tidegate.errors import UsageError

        if metric not in ("recall", "error_rate", "false_alarm_rate"):
            raise UsageError(f"expected recall, error_rate or false_alarm_rate, got {metric!r}")
        table = read_run(run, None if data is None else read_manifest(data), issue=issue)
        classifier, _ = judge_of(judge, table)
        diagnosis = diagnose(table, classifier=classifier) if table.errors.any() else None
        found = regions_of(table, diagnosis, column=column, metric=metric)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(_regions_dict(found), allow_nan=False))
    else:
        _print_regions(found)


def _regions_dict(found: Regions) -> dict[str, Any]:
    rows = [{"region": r.region, "n": r.n, "events": r.events, "raw": None if r.n == 0 else r.raw,
             "estimate": r.shrunken.estimate, "low": r.shrunken.low, "high": r.shrunken.high,
             "gap_to_best": r.gap_to_best.estimate, "gap_low": r.gap_to_best.low, "gap_high": r.gap_to_best.high,
             "errors": r.errors, "main_class": None if r.main_class is None else r.main_class.value,
             "collect": r.collect} for r in found.rows]
    return {"metric": found.metric, "mean": found.mean, "spread": found.spread, "regions": rows}


def _print_regions(found: Regions) -> None:
    typer.echo(f"{found.metric} of {len(found.rows)} regions: mean {found.mean:.3f}, standard deviation between "
               f"regions {found.spread:.3f} (beyond luck)\n")
    typer.echo("region          n   raw   shrunken [95 %]        gap to best           main class  collect")
    for r in found.rows:
        raw = "    –" if r.n == 0 else f"{r.raw:5.2f}"
        main = "–" if r.main_class is None else r.main_class.value
        typer.echo(f"{r.region:10} {r.n:6} {raw}   {r.shrunken.estimate:.2f} [{r.shrunken.low:.2f}, "
                   f"{r.shrunken.high:.2f}]   {r.gap_to_best.estimate:.2f} [{r.gap_to_best.low:.2f}, "
                   f"{r.gap_to_best.high:.2f}]   {main:10}  {r.collect}")


@verb.command("drift")
def _drift(  # noqa: PLR0917 - one parameter an option
    before: Annotated[Path, typer.Argument(help="Run of the first period.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Run of the second period.", show_default=False)],
    column: Annotated[str, typer.Option(help="What a slice of the traffic is.")] = "region",
    quantity: Annotated[str, typer.Option(help="error_rate or flagged_rate.")] = "error_rate",
    samples: Annotated[int, typer.Option(min=0, help="Resamples of the intervals.")] = 300,
    as_json: Json = False,
) -> None:
    """What share of a change between two periods is traffic mix, label rate, and the model."""
    with said_plainly():
        from tidegate.diagnosis.drift import drift_between
        from tidegate.diagnosis.score_table import read_run
        from tidegate.errors import UsageError

        if quantity not in ("error_rate", "flagged_rate"):
            raise UsageError(f"expected error_rate or flagged_rate, got {quantity!r}")
        found = drift_between(read_run(before), read_run(after), column=column, num_samples=samples,
                              quantity=quantity)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(_drift_dict(found), allow_nan=False))
        return
    typer.echo(f"{found.quantity} by {found.column}: {found.before:.4f} before, {found.after:.4f} after\n")
    for name, part in (*found.factors.items(), ("all", found.change)):
        typer.echo(f"  {name:12} {part.estimate:+.4f}  [{part.low:+.4f}, {part.high:+.4f}]")
    for text in found.notes:
        typer.echo(f"  note: {text}")


def _drift_dict(found: Drift) -> dict[str, Any]:
    parts = {**found.factors, "all": found.change}
    return {"quantity": found.quantity, "column": found.column, "before": found.before, "after": found.after,
            "parts": {name: {"estimate": part.estimate, "low": part.low if part.low == part.low else None,
                             "high": part.high if part.high == part.high else None} for name, part in parts.items()},
            "notes": list(found.notes)}
