"""``tidegate reproduce``: the trials that the wanted tables need, then the tables.

Enters: a manifest, a foundation, a folder. Leaves: ``TableReport`` objects. What is done already is read from the
folder. Trials are independent, so that several processes share them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from tidegate.bench.reproduce.figures import Figures, RowScores, figures_of, scores_of_cascade, scores_of_trial
from tidegate.bench.reproduce.report import TableReport, report_table
from tidegate.bench.reproduce.stock import PACKAGED_FOUNDATION, Foundation, StockFiles, prepare_stock
from tidegate.bench.reproduce.training import TrialResult, run_trial, schedule_of
from tidegate.bench.reproduce.trials import ROWS, Trial, trials_of
from tidegate.corpus import read_manifest
from tidegate.errors import ManifestError, UsageError
from tidegate.evaluation import markdown_table

__all__ = [
    "ReproduceConfig",
    "finished",
    "grid_markdown",
    "lora_grid",
    "reproduce_tables",
    "results_done",
    "stock_files",
]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """What to run again, on what."""

    data: Path
    """Manifest with splits and one issue."""
    folder: Path
    """Features, tower outputs and finished trials are kept here."""
    tables: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Which of the paper's tables."""
    seeds: int = 3
    """Trainings of each trial, under seeds 0, 1, ..."""
    workers: int = 1
    """Processes that share the trials; each uses one thread."""
    foundation: Path | None = None
    """Folder of the warmed-up models; None: the package's."""
    num_samples: int = 300
    """Bootstrap resamples of each interval."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.workers < 1 or self.num_samples < 1:
            raise UsageError(
                f"expected seeds, workers, samples >= 1, got {self.seeds}, {self.workers}, {self.num_samples}"
            )
        if unknown := sorted(set(self.tables) - set(ROWS)):
            raise UsageError(f"expected tables among {sorted(ROWS)}, got {unknown}")


def stock_files(config: ReproduceConfig) -> StockFiles:
    """Where tables lie; a manifest must have exactly one of the issues ``icd`` and ``ucc``."""
    issues = [name for name in read_manifest(config.data).issues if name in ("icd", "ucc")]
    if len(issues) != 1:
        raise ManifestError(
            f"{config.data}: expected labels of exactly one of icd and ucc, found {issues or 'neither'}"
        )
    folder = config.foundation or PACKAGED_FOUNDATION
    return StockFiles(folder=config.folder, data=config.data, issue=issues[0], foundation=Foundation(folder=folder))


def _result_path(files: StockFiles, trial: Trial, seed: int) -> Path:
    schedule = schedule_of(trial)
    part = f"e{schedule.epochs}lr{schedule.learning_rate:g}"
    return files.folder / f"trials-{files.digest}" / f"{trial.key}-{part}-seed{seed}.npz"


def _work(files: StockFiles, trial: Trial, seed: int) -> tuple[Trial, int, float]:
    torch.set_num_threads(1)
    path = _result_path(files, trial, seed)
    if not path.exists():  # another run on the same folder may have been quicker
        run_trial(files, trial, seed).save(path)
    return trial, seed, TrialResult.load(path).seconds


def finished(
    files: StockFiles, trials: Sequence[Trial], seeds: int, *, workers: int, say: Say
) -> Mapping[tuple[Trial, int], TrialResult]:
    """Results of all trials; those that are not in the folder are trained first."""
    wanted = [(trial, seed) for seed in range(seeds) for trial in trials]
    missing = [job for job in wanted if not _result_path(files, *job).exists()]
    stages = tuple(stage for stage in ("base", "large") if any(trial.stage == stage for trial, _ in missing))
    small = any(trial.small_audio for trial, _ in missing)
    prepare_stock(files, stages, small_audio=small, workers=2, say=say)  # type: ignore[arg-type]
    say(f"{len(wanted)} trainings wanted, {len(wanted) - len(missing)} done before")
    started = time.perf_counter()
    for number, (trial, seed, seconds) in enumerate(_done(files, missing, workers), start=1):
        spent = time.perf_counter() - started
        say(f"{number}/{len(missing)} {trial.key} seed {seed}: {seconds:.0f} s of training, {spent:.0f} s in all")
    return {job: TrialResult.load(_result_path(files, *job)) for job in wanted}


def _done(files: StockFiles, jobs: Sequence[tuple[Trial, int]], workers: int):  # type: ignore[no-untyped-def]
    if workers == 1 or len(jobs) < 2:
        yield from (_work(files, trial, seed) for trial, seed in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_work, files, trial, seed) for trial, seed in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            for future in futures:
                future.cancel()


def _row_scores(
    number: int, results: Mapping[tuple[Trial, int], TrialResult], seeds: int
) -> dict[tuple[str, str], RowScores]:
    def of(trial: Trial) -> list[TrialResult]:
        return [results[trial, seed] for seed in range(seeds)]

    return {
        key: scores_of_trial(of(row)) if isinstance(row, Trial) else scores_of_cascade(row, of(row.base), of(row.large))
        for key, row in ROWS[number].items()
    }


def reproduce_tables(config: ReproduceConfig, say: Say) -> list[TableReport]:
    """The wanted tables."""
    files = stock_files(config)
    trials = tuple(dict.fromkeys(trial for number in config.tables for trial in trials_of(number)))
    results = finished(files, trials, config.seeds, workers=config.workers, say=say)
    return [
        report_table(number, files.issue, _row_scores(number, results, config.seeds), num_samples=config.num_samples)
        for number in config.tables
    ]


def lora_grid(
    config: ReproduceConfig, ranks: Sequence[int], alphas: Sequence[int], say: Say, *, rate: float | None = None
) -> dict[tuple[int, int], Figures]:
    """Figures of the large model for every rank and alpha, at the schedule's peak rate or another."""
    trials = {
        (rank, alpha): Trial(stage="large", rank=rank, alpha=alpha, rate=rate) for rank in ranks for alpha in alphas
    }
    results = finished(stock_files(config), tuple(trials.values()), config.seeds, workers=config.workers, say=say)
    return {
        key: figures_of(
            scores_of_trial([results[trial, seed] for seed in range(config.seeds)]), num_samples=config.num_samples
        )
        for key, trial in trials.items()
    }


def grid_markdown(grid: Mapping[tuple[int, int], Figures], column: str) -> str:
    """One line a rank, one column an alpha, in per cent."""
    ranks, alphas = sorted({rank for rank, _ in grid}), sorted({alpha for _, alpha in grid})
    rows = []
    for rank in ranks:
        row: dict[str, object] = {"rank": rank}
        for alpha in alphas:
            row[f"alpha {alpha}"] = str(grid[rank, alpha].values[column])
        rows.append(row)
    return f"{column} of the MLLM by rank and alpha of LoRA\n\n{markdown_table(rows)}"


def results_done(files: StockFiles, trial: Trial, seeds: int) -> list[TrialResult]:
    """Results of a trial that lie there already."""
    paths = [_result_path(files, trial, seed) for seed in range(seeds)]
    return [TrialResult.load(path) for path in paths if path.exists()]
