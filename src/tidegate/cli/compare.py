"""``tidegate compare``: did a change bring the gain, and by the mechanism that was diagnosed?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tidegate.diagnosis.attribution import Comparison
    from tidegate.diagnosis.plan import Step

__all__ = ["register"]

_EPILOG = """
Examples:

    tidegate compare diagnosis/run.parquet diagnosis/after/slice_threshold

    tidegate compare before.parquet after.parquet --placebo placebo.parquet --class C4

    tidegate compare diagnosis/run.parquet after.parquet --plan diagnosis/plan.toml --intervention feed_text

Exit codes: 0 done, 2 bad usage.
"""


def _compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", show_default=False, help="Run before the change.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", show_default=False, help="Run after it, same items.")],
    *,
    placebo: Annotated[Path | None, typer.Option(help="Run after a change of equal effort without the idea.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Class meant to be cured; may repeat.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan with the predicted gain.")] = None,
    intervention: Annotated[str | None, typer.Option(help="What was done; its classes are asked about.")] = None,
    judge: Annotated[str, typer.Option(help="rules, learned, or auto, as for the diagnosis.")] = "auto",
    ledger: Annotated[Path, typer.Option(help="Ledger to add the outcome to.")] = Path("ledger.jsonl"),
    samples: Annotated[int, typer.Option(min=10, help="Resamples of the intervals.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare two runs over the same items; with --intervention the outcome goes into the ledger."""
    from tidegate.cli.plainly import said_plainly

    with said_plainly():
        from tidegate.diagnosis import FailureClass, diagnose
        from tidegate.diagnosis.attribution import compare_runs
        from tidegate.diagnosis.interventions import REGISTRY
        from tidegate.diagnosis.learned import judge_of
        from tidegate.diagnosis.score_table import read_run
        from tidegate.errors import UsageError

        unknown = set(classes or ()) - {c.value for c in FailureClass}
        if unknown or (intervention is not None and intervention not in REGISTRY):
            raise UsageError(f"unknown class or intervention: {', '.join([*sorted(unknown), intervention or ''])}")
        asked = [FailureClass(name) for name in classes or ()]
        asked += list(REGISTRY[intervention].classes) if intervention and not asked else []
        first, second = read_run(before), read_run(after)
        classifier, _ = judge_of(judge, first)
        found = compare_runs(
            first, second, diagnosis=diagnose(first, classifier=classifier) if first.errors.any() else None,
            diagnosis_after=diagnose(second, classifier=classifier) if second.probes and second.errors.any() else None,
            placebo=None if placebo is None else read_run(placebo), classes=asked, num_samples=samples, seed=seed,
        )
        if intervention is not None:
            _note(ledger, intervention, found, _predicted(plan, intervention))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), allow_nan=False))
    else:
        _print(found, ledger if intervention else None)


def _predicted(plan: Path | None, intervention: str) -> Step | None:
    if plan is None:
        return None
    from tidegate.diagnosis.plan import read_plan

    return next((step for step in read_plan(plan).steps if step.name == intervention), None)


def _note(ledger: Path, intervention: str, found: Comparison, step: Step | None) -> None:
    from tidegate.diagnosis.ledger import LedgerEntry, append

    gain, predicted = found.f1_gain, step.predicted_f1 if step else None
    if gain.estimate != gain.estimate:
        return
    append(ledger, LedgerEntry(
        intervention=intervention, realised_f1=gain.estimate, realised_low=gain.low, realised_high=gain.high,
        predicted_f1=predicted[0] if predicted else None, predicted_low=predicted[1] if predicted else None,
        predicted_high=predicted[2] if predicted else None, ceiling_f1=step.ceiling_f1 if step else None,
        claimed=tuple(claim.failure.value for claim in found.claims if claim.claimed),
    ))


def _print(found: Comparison, ledger: Path | None) -> None:
    gain = found.f1_gain
    typer.echo(f"{found.n} items in both ({found.left_out} left out): {found.errors_before} errors before, "
               f"{found.errors_after} after")
    typer.echo(f"{found.cured} cured, {found.broken} broken (McNemar p {found.p_value:.2g})")
    typer.echo(f"F1 {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] with thresholds chosen on other sources; "
               f"{found.f1_gain_fixed:+.3f} as they are")
    for claim in found.claims:
        word = "CLAIMED" if claim.claimed else "not claimed"
        odds = claim.odds_ratio
        typer.echo(f"  {claim.failure.value:13} {word:12} cured {claim.cured:.1f} of {claim.errors_before:.1f}; "
                   f"odds ratio {odds.estimate:.2f} [{odds.low:.2f}, {odds.high:.2f}]; {claim.why}")
    for text, cured, broken in found.by_slice[:8]:
        typer.echo(f"  {text}: {cured} cured, {broken} broken")
    for text in found.notes:
        typer.echo(f"  note: {text}")
    if ledger is not None:
        typer.echo(f"ledger {ledger}")


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("compare", epilog=_EPILOG)(_compare)
