"""``tidegate corpus``: make the synthetic corpus, look at a manifest, measure single-modality baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.scan import said_plainly

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.corpus import Manifest
    from tidegate.evaluation import Summary

__all__ = ["register"]

_JSON = typer.Option("--json", help="One JSON object on standard output instead of a table.")


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    corpus = typer.Typer(help="Manifests and the synthetic corpus.", no_args_is_help=True)
    corpus.command("make")(make)
    corpus.command("show")(show)
    corpus.command("baseline")(baseline)
    app.add_typer(corpus, name="corpus")


def make(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the corpus; a corpus begun there is finished.")],
    videos: Annotated[int, typer.Option(min=1, help="How many videos.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pixels, samples and labels.")] = 0,
    task: Annotated[str, typer.Option(help="icd: breaks the policy or not. ucc: original or edited copy.")] = "icd",
    regions: Annotated[
        str | None, typer.Option(help="Comma-separated ISO codes, such as US,IN,EG; all by default.")
    ] = None,
    prevalence: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of positive videos.")] = 0.3,
    workers: Annotated[int, typer.Option(min=1, help="Processes; changes nothing in the result.")] = 1,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Make the synthetic corpus: short real MP4s whose evidence is known.

    \b
    Examples:
      tidegate corpus make --out corpus --videos 200 --seed 7
      tidegate corpus make --out india --videos 50 --seed 1 --regions IN,BD,LK
      tidegate corpus make --out copies --videos 200 --task ucc --prevalence 0.5
    """
    from rich.console import Console

    with said_plainly(Console(stderr=True, highlight=False)), _progress("making videos") as advance:
        from tidegate.corpus import SyntheticConfig, make_corpus

        config = SyntheticConfig(
            out=out,
            videos=videos,
            seed=seed,
            task=task,  # type: ignore[arg-type]
            regions=None if regions is None else tuple(code.strip().upper() for code in regions.split(",")),
            prevalence=prevalence,
            workers=workers,
        )
        manifest = make_corpus(config, advance)
    _print(_facts(manifest), as_json=as_json)


def show(
    manifest: Annotated[Path, typer.Argument(help="A manifest in Parquet or CSV, or the folder of a corpus.")],
    *,
    as_json: Annotated[bool, _JSON] = False,
    check_files: Annotated[bool, typer.Option("--check-files", help="Fail when a video is not there.")] = False,
) -> None:
    """Show what a manifest holds: videos, labels, sides, languages, evidence.

    \b
    Examples:
      tidegate corpus show corpus
      tidegate corpus show corpus/manifest.parquet --json
    """
    from rich.console import Console

    with said_plainly(Console(stderr=True, highlight=False)):
        found = _read(manifest)
        if check_files:
            found.check_files()
    _print(_facts(found), as_json=as_json)


def baseline(
    *,
    data: Annotated[Path, typer.Option(help="A manifest in Parquet or CSV, or the folder of a corpus.")],
    issue: Annotated[str, typer.Option(help="The label to predict: icd, ucc, violence, ...")] = "icd",
    rounds: Annotated[int, typer.Option(min=1, help="Trees of the boosted models.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure features.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of classifiers and intervals.")] = 0,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure what plain models of one modality reach, and of all three together.

    \b
    Example:
      tidegate corpus baseline --data corpus/manifest.parquet --workers 2
    """
    from rich.console import Console

    with said_plainly(Console(stderr=True, highlight=False)), _progress("measuring features") as advance:
        from tidegate.corpus.baseline import ceilings, measure_baselines

        found = _read(data)
        summaries = measure_baselines(found, issue, rounds=rounds, workers=workers, seed=seed, progress=advance)
        limits = (
            {c.modality: c for c in ceilings(found.split("test"), issue)}
            if issue == "icd" and _has_truth(found)
            else {}
        )
    rows = [_row(summary, limits) for summary in summaries]
    if as_json:
        _print({"data": str(data), "issue": issue, "baselines": rows}, as_json=True)
        return
    from rich.table import Table

    table = Table(*(name for name in rows[0]))
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def _row(summary: Summary, limits: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "input": summary.name,
        "test_videos": summary.n,
        "auc": round(summary.auc.estimate, 4),
        "auc_low": round(summary.auc.low, 4),
        "auc_high": round(summary.auc.high, 4),
        "average_precision": round(summary.average_precision, 4),
        "f1": round(summary.f1, 4),
    }
    row |= {f"r@p{round(100 * r.target)}": round(r.recall, 4) for r in summary.recalls if r.meaning == "oracle"}
    if summary.name in limits:
        row |= {"ceiling_share": limits[summary.name].visible_share, "ceiling_auc": limits[summary.name].auc}
    return row


def _has_truth(manifest: Manifest) -> bool:
    return all("modalities" in entry.truth for entry in manifest)


def _read(path: Path) -> Manifest:
    from tidegate.corpus import read_manifest

    return read_manifest(path / "manifest.parquet" if path.is_dir() else path)


@contextmanager
def _progress(words: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console: Console = Console(stderr=True)
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Counts of everything that a reader of a manifest asks for first."""
    from collections import Counter

    entries = list(manifest)
    facts: dict[str, Any] = {
        "manifest": str(manifest.path),
        "videos": len(manifest),
        "sources": len({entry.source_id for entry in entries if entry.source_id}),
        "regions": len({entry.region for entry in entries if entry.region}),
        "languages": dict(Counter(entry.language for entry in entries if entry.language).most_common()),
        "missing_files": len(manifest.missing_files()),
    }
    for issue in manifest.issues:
        labelled = manifest.labelled(issue)
        facts[f"positive_{issue}"] = sum(entry.labels[issue] for entry in labelled)
        for side in ("train", "validation", "test"):
            part = labelled.split(side)  # type: ignore[arg-type]
            facts[f"{issue}_{side}"] = f"{len(part)} ({sum(entry.labels[issue] for entry in part)} positive)"
    for name in ("kind", "look_alike", "clause"):
        counts = Counter(str(entry.truth[name]) for entry in entries if entry.truth.get(name))
        if counts:
            facts[name] = dict(counts.most_common())
    return facts


def _print(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{name:<{width}}  {shown}")
