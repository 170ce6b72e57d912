"""``tidegate calibrate``: thresholds with their certificate, and the audits that a promise needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tidegate.cascade.calibrate import Calibrated

__all__ = ["register"]

verb = typer.Typer(
    name="calibrate",
    help="Certify the cascade's thresholds from an audit: recall, precision, or both at once.",
    no_args_is_help=True,
    invoke_without_command=True,
)


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.add_typer(verb)


@verb.callback()
def _calibrate(  # noqa: PLR0917 - one parameter an option
    context: typer.Context,
    scores: Annotated[
        Path | None,
        typer.Option(help="Audit, Parquet or CSV: video_id, base, large[, label][, region][, propensity]."),
    ] = None,
    target_recall: Annotated[
        float | None, typer.Option(help="Share of what the large model finds alone that the cascade must find.")
    ] = None,
    precision: Annotated[float | None, typer.Option(help="Precision of what is flagged; needs labels.")] = None,
    delta: Annotated[float, typer.Option(help="Probability with which the promise may fail.")] = 0.05,
    lam: Annotated[
        float | None, typer.Option(help="Flag threshold of the large model; 0.5, or chosen when --precision is given.")
    ] = None,
    traffic: Annotated[Path | None, typer.Option(help="File with a base column of all traffic, for the cost.")] = None,
    tuning: Annotated[Path | None, typer.Option(help="File with the video_id that training or choosing used.")] = None,
    collection_size: Annotated[
        int | None, typer.Option(help="The audit is a sample without replacement of a fixed collection of this size.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for certificate.json and policy-thresholds.toml.")] = Path(
        "calibration"
    ),
    plot: Annotated[Path | None, typer.Option(help="Draw the recall-cost curve (.png, .svg or .html).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split on which lam is chosen.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Certify the cascade's thresholds from an audit."""
    if context.invoked_subcommand is not None:
        return
    from tidegate.cascade.calibrate import CalibrationConfig, calibrate
    from tidegate.errors import TidegateError, UsageError

    try:
        if scores is None:
            raise UsageError("expected --scores FILE, got none")
        done = calibrate(
            CalibrationConfig(
                scores=scores,
                target_recall=target_recall,
                precision=precision,
                delta=delta,
                lam=lam,
                traffic=traffic,
                tuning=tuning,
                collection_size=collection_size,
                seed=seed,
            )
        )
        written = [*done.write(out), *_drawn(done, plot)]
    except TidegateError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    if as_json:
        typer.echo(json.dumps(done.to_dict(), allow_nan=False))
    else:
        _print(done, written)


def _drawn(done: Calibrated, plot: Path | None) -> list[Path]:
    if plot is None:
        return []
    from tidegate.cascade.plots import plot_calibrated

    plot_calibrated(done, plot)
    return [plot]


def _print(done: Calibrated, written: list[Path]) -> None:
    mine = done.certificate
    typer.echo(f"{'CERTIFIED' if mine.certified else 'NOT CERTIFIED'}  {mine.target}, delta {mine.delta:g}")
    typer.echo(f"  {mine.reason}")
    tau = f"{mine.tau:.6g}" if mine.certified else "-inf (everything is escalated)"
    typer.echo(f"  tau {tau}   lam {mine.lam:.6g}   escalated {mine.share_escalated:.2%}")
    bound = "–" if mine.precision_bound is None else f"{mine.precision_bound:.4f}"
    typer.echo(f"  recall ≥ {mine.recall_bound:.4f}   precision ≥ {bound}")
    typer.echo(f"  {mine.n_audit} audits, {mine.n_positives} positives   certificate {mine.certificate_id}")
    for assumption in mine.assumptions:
        typer.echo(f"  assumes: {assumption}")
    typer.echo("\n  recall   escalated (certified)   escalated (estimate)")
    for point in done.curve:
        here = "  <- operating point" if mine.certified and point.recall == mine.target_recall else ""
        certified = f"{point.certified_share:8.2%}" if point.certified else "   –    "
        typer.echo(f"  {point.recall:6.2f}   {certified}                {point.estimated_share:8.2%}{here}")
    if done.regions:
        typer.echo("\n  region   positives   tau (estimate)   tau (certified)")
        for entry in done.regions:
            certified = "–" if entry.certified_tau is None else f"{entry.certified_tau:.4f}"
            typer.echo(f"  {entry.region!s:6}   {entry.n_positives:9}   {entry.tau:14.4f}   {certified}")
    typer.echo("\n  written: " + ", ".join(str(path) for path in written))


@verb.command("audit-plan")
def _audit_plan(  # noqa: PLR0917 - one parameter an option
    prevalence: Annotated[float, typer.Option(help="Share of items that the large model flags.")],
    eps: Annotated[float, typer.Option(help="Recall that may be lost against the large model alone.")],
    delta: Annotated[float, typer.Option(help="Probability with which the promise may fail.")] = 0.05,
    power: Annotated[float, typer.Option(help="Probability that the audit suffices.")] = 0.8,
    expected_recall: Annotated[
        float | None, typer.Option(help="True recall at the threshold to come; a third of eps lost by default.")
    ] = None,
    precision: Annotated[float | None, typer.Option(help="Precision to promise as well; counts labels.")] = None,
    expected_precision: Annotated[float | None, typer.Option(help="True precision; a third of the way to 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """How many audits, large-model calls and labels a promise needs."""
    from dataclasses import asdict

    from tidegate.cascade import audit_plan
    from tidegate.errors import TidegateError

    try:
        plan = audit_plan(
            prevalence=prevalence,
            eps=eps,
            delta=delta,
            power=power,
            expected_recall=expected_recall,
            precision=precision,
            expected_precision=expected_precision,
        )
    except TidegateError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(asdict(plan)))
        return
    typer.echo(f"recall ≥ {plan.target_recall:g} at delta {plan.delta:g}, prevalence {plan.prevalence:g}:")
    typer.echo(f"  at the very least {plan.min_positives} positives: about {plan.min_audits:,} audits")
    typer.echo(
        f"  {plan.positives} positives certify a threshold of true recall {plan.expected_recall:.4g} with probability "
        f"{plan.power:g}: {plan.audits:,} audits (one large-model call each)"
    )
    if plan.labels is not None:
        typer.echo(f"  the precision promise needs {plan.labels:,} labels on flagged items of the audit")
