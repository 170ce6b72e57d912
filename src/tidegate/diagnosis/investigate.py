"""``investigate``: from what a user has (a run, a manifest, checkpoints) to the report, in one call.

Enters: paths. Leaves: the diagnosis, and a folder with the report, its JSON, the run with every probe
(``run.parquet``) and a plan to carry out. What a user does not have is said in the report's notices, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tidegate.corpus.manifest import Entry, Manifest, read_manifest
from tidegate.diagnosis.adaptive import ProbingConfig
from tidegate.diagnosis.clip_scorer import ClipScorer, Deciding, Progress
from tidegate.diagnosis.diagnose import Diagnosis, DiagnosisConfig, diagnose
from tidegate.diagnosis.gains import Gain, GainsConfig, gains, known_change, suspicion
from tidegate.diagnosis.interventions import REGISTRY, Context
from tidegate.diagnosis.learned import judge_of
from tidegate.diagnosis.ledger import ratios_from, read_ledger
from tidegate.diagnosis.plan import write_plan
from tidegate.diagnosis.reference import Reference
from tidegate.diagnosis.report import examples_of, write_diagnosis
from tidegate.diagnosis.score_table import read_run, write_scores
from tidegate.diagnosis.shapley import MAX_FIXES, shapley_of_changes
from tidegate.diagnosis.showing import Shown, show
from tidegate.diagnosis.slices import check_labels, failure_clusters, failure_slices
from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.transfer import shipped_ratios
from tidegate.errors import DependencyMissing, ManifestError, UsageError

if TYPE_CHECKING:
    from tidegate.models.recogniser import Recogniser

__all__ = ["Investigated", "InvestigationConfig", "deciding_of", "investigate", "large_of"]


@dataclass(frozen=True, kw_only=True)
class InvestigationConfig:
    """What to investigate, and where to write."""

    out: Path
    """Folder of the report."""
    run: Path | None = None
    """Score file, or a folder with one or of a scan; None: the models score the manifest."""
    data: Path | None = None
    """Manifest: labels, clips and truth; None for scores alone."""
    models: str | None = None
    """Preset, or a folder with checkpoints in ``large`` (and ``base``), for scores and probes; None: no probes."""
    splits: tuple[str, ...] = ("test",)
    """Splits of the manifest; ``all`` takes every labelled entry."""
    issue: str = "icd"
    """Label to judge by."""
    recogniser: str | None = None
    """Whisper checkpoint (model hub id or folder) that the probe ``transcript_recognised`` hears with; None: no such
    probe."""
    other_policy: str | None = None
    """Preset, or folder of a checkpoint (or with one in ``large``), trained under another policy version, for the probe
    ``policy_other``; None: no such probe."""
    reference_items: int = 0
    """Training videos that are decoded to know how far an item is from them; 0: novelty and leakage are not judged."""
    p_base: str = "20"
    """Base precision in percent whose tau the cascade uses, as ``thresholds.json`` has it."""
    judge: str = "auto"
    """``rules``, ``learned``, or ``auto``: learned where one is shipped and the run is like those it was fitted on."""
    probing: ProbingConfig = field(default_factory=ProbingConfig)
    """Which probes are run on what."""
    ledger: Path | None = None
    """Ledger of past interventions, whose transfer ratios are used."""
    cache: Path | None = None
    """Where probe scores are kept; None: in ``out``."""
    workers: int = 2
    """Decoding processes."""
    seed: int = 0
    """Seed of resamples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Investigated:
    """What came of it."""

    diagnosis: Diagnosis
    gains: tuple[Gain, ...]
    report: Path
    machine: Path
    plan: Path
    notices: tuple[str, ...]


def large_of(models: str) -> Deciding:
    """The large stage alone of a preset or folder, with the threshold that validation chose."""
    from tidegate.models import PRESETS, load_stage, preset

    folder = Path(models)
    if models in PRESETS:
        large = preset(models).load_stage("large")
    elif folder.is_dir():
        large = load_stage(folder / "large" if (folder / "large").is_dir() else folder, name="large")
    else:
        raise UsageError(f"expected a preset among {sorted(PRESETS)} or a folder with checkpoints, got {models!r}")
    return Deciding(large=large, threshold=float((large.thresholds or {}).get("flag_threshold", 0.5)))


def deciding_of(models: str, p_base: str) -> Deciding:
    """Stages of a preset or folder, with the thresholds that validation chose."""
    from tidegate.models import PRESETS, load_stage, preset

    alone, folder = large_of(models), Path(models)
    base = preset(models).load_stage("base") if models in PRESETS else None
    if models not in PRESETS and (folder / "large").is_dir() and (folder / "base").is_dir():
        base = load_stage(folder / "base", name="base")
    tau = None if base is None else (base.thresholds or {}).get("escalate", {}).get(p_base)
    if base is not None and tau is None:
        raise UsageError(f"expected a tau for a base precision of {p_base} % in the base stage's thresholds.json")
    return replace(alone, base=base, tau=0.0 if tau is None else float(tau))


def _entries(manifest: Manifest, config: InvestigationConfig) -> list[Entry]:
    everything = "all" in config.splits
    chosen = [e for e in manifest if config.issue in e.labels and (everything or e.split in config.splits)]
    if not chosen:
        where = ", ".join(config.splits)
        raise ManifestError(f"expected videos labelled {config.issue!r} in split {where}, found none")
    return chosen


def investigate(config: InvestigationConfig, *, progress: Progress | None = None) -> Investigated:
    """Diagnose a run and write everything about it into ``config.out``."""
    for option, given in (("--recogniser", config.recogniser), ("--other-policy", config.other_policy)):
        if given is not None and (config.models is None or config.data is None):
            raise UsageError(f"expected --models and --data beside {option}, whose probe scores clips; one is missing")
    manifest = None if config.data is None else read_manifest(config.data)
    entries = [] if manifest is None else _entries(manifest, config)
    notices: list[str] = []
    table = None if config.run is None else read_run(config.run, manifest, issue=config.issue)
    if config.models is not None and manifest is not None:
        cache = config.cache or config.out / "probe-scores"
        with ClipScorer(entries, deciding_of(config.models, config.p_base), cache, workers=config.workers,
                        recogniser=_recogniser(config), other=_other(config), progress=progress) as scorer:
            own = scorer.table()
            if table is not None:
                notices.append(_agreement(table, own))
            train = _reference(manifest, config, cache, progress, notices)
            diagnosis, judged_by = _diagnosed(own, scorer, train, config)
    elif table is not None:
        notices.append("No models were given: probes are those that the run's file holds.")
        diagnosis, judged_by = _diagnosed(table, None, None, config)
    else:
        raise UsageError("expected --run, or --models and --data; got neither")
    shown, more = _shown(entries, diagnosis, config.workers)
    return _written(config, diagnosis, judged_by, shown, [*notices, *more])


def _recogniser(config: InvestigationConfig) -> Recogniser | None:
    """Loaded, and its code imported, only where one is asked for."""
    if config.recogniser is None:
        return None
    from tidegate.models.recogniser import load_recogniser

    return load_recogniser(config.recogniser)


def _other(config: InvestigationConfig) -> Deciding | None:
    return None if config.other_policy is None else large_of(config.other_policy)


def _agreement(given: ProbeTable, own: ProbeTable) -> str:
    place = {name: row for row, name in enumerate(own.ids.tolist())}
    pairs = [(row, place[name]) for row, name in enumerate(given.ids.tolist()) if name in place]
    same = sum(bool(given.flagged[a] == own.flagged[b]) for a, b in pairs)
    return (f"The models scored the clips anew for the probes: {same} of {len(pairs)} verdicts are those of the given "
            f"run. What follows is about the new scores.")


def _reference(manifest: Manifest, config: InvestigationConfig, cache: Path, progress: Progress | None,
               notices: list[str]) -> Reference | None:
    train = [e for e in manifest if e.split == "train" and config.issue in e.labels][: config.reference_items]
    if not train or "all" in config.splits or config.models is None:
        notices.append("No training videos were looked at: novelty (C12) and leakage (M1) cannot be judged.")
        return None
    with ClipScorer(train, deciding_of(config.models, config.p_base), cache / "reference", workers=config.workers,
                    progress=progress) as scorer:
        table = scorer.table()
    assert table.embeddings_ND is not None
    return Reference(embeddings_MD=table.embeddings_ND, labels=table.labels, hashes=table.hashes)


def _diagnosed(table: ProbeTable, scorer: ClipScorer | None, train: Reference | None,
               config: InvestigationConfig) -> tuple[Diagnosis, str]:
    scorable = frozenset() if scorer is None else scorer.probes - {"retry"}  # which nearly no item has a score under
    classifier, judged_by = judge_of(config.judge, table, scorable)
    settings = DiagnosisConfig(probing=config.probing, seed=config.seed)
    return diagnose(table, scorer, train=train, classifier=classifier, config=settings), judged_by


def _shown(entries: Sequence[Entry], diagnosis: Diagnosis, workers: int) -> tuple[Mapping[str, Shown], list[str]]:
    if not entries:
        return {}, ["No manifest was given: examples have no pictures and no sound."]
    by_id = {entry.video_id: entry for entry in entries}
    shown = show(by_id, [one.item for one in examples_of(diagnosis)], workers=workers)
    lost = sum(bool(one.reason) for one in shown.values())
    return shown, [f"{lost} of the examples' clips cannot be decoded."] if lost else []


def _written(config: InvestigationConfig, diagnosis: Diagnosis, judged_by: str, shown: Mapping[str, Shown],
             notices: list[str]) -> Investigated:
    context = Context(data=str(config.data or "MANIFEST"), checkpoint=_folder_of(config.models, "large"),
                      base=_folder_of(config.models, "base"), out=str(config.out / "after"), issue=config.issue,
                      plan=str(config.out / "plan.toml"), p_base=config.p_base, locale=_locale(diagnosis))
    ledger = () if config.ledger is None else read_ledger(config.ledger)
    ratios = ratios_from(ledger, shipped_ratios())
    found = gains(diagnosis, config=GainsConfig(ratios=ratios, context=context, seed=config.seed))
    try:
        clusters = failure_clusters(diagnosis.table, seed=config.seed)
    except DependencyMissing as error:
        clusters, notices = (), [*notices, str(error)]
    if "peer_score" in diagnosis.table.features:
        notices = [*notices, _labels(diagnosis.table)]
    write_scores(diagnosis.table, config.out / "run.parquet")
    plan = config.out / "plan.toml"
    write_plan(plan, found, run=config.out / "run.parquet", out=config.out / "after", context=context)
    report, machine = write_diagnosis(
        diagnosis, found, config.out, slices=failure_slices(diagnosis.table), clusters=clusters, shown=shown,
        shapley=_shapley(diagnosis, found), judged_by=judged_by, notices=notices, title="Why does it fail?",
    )
    return Investigated(diagnosis=diagnosis, gains=found, report=report, machine=machine, plan=plan,
                        notices=tuple(notices))


def _labels(table: ProbeTable) -> str:
    """What cleanlab makes of the labels, in a sentence."""
    try:
        suspects = check_labels(table).suspects
    except DependencyMissing as error:
        return str(error)
    some = ", ".join(table.ids[suspects[:5]].tolist())
    return f"Independent peers speak against {len(suspects)} labels (cleanlab){': ' + some if some else ''}."


def _locale(diagnosis: Diagnosis) -> str:
    """Language or region with the most suspicion of a locale's fault beyond its share of the errors; "" for none."""
    table, suspected = diagnosis.table, suspicion(diagnosis, REGISTRY["locale_data"].classes)
    rate = float(suspected.sum()) / max(1, int(table.errors.sum()))
    excess = {f"{name}={value}": float(suspected[rows].sum()) - rate * int(table.errors[rows].sum())
              for name in ("language", "region") if (column := table.slices.get(name)) is not None
              for value in np.unique(column).tolist() if value and (rows := column == value).any()}
    found = max(excess, key=lambda name: excess[name], default="")
    return found if found and excess[found] > 0.5 else ""


def _folder_of(models: str | None, stage: str) -> str:
    from tidegate.models.presets import PRESETS, Packaged

    if models in PRESETS:
        part = PRESETS[models].base if stage == "base" else PRESETS[models].large
        return str(part.folder) if isinstance(part, Packaged) else f"checkpoints/{stage}"
    if models is None:
        return f"checkpoints/{stage}"
    return str(Path(models) / stage) if (Path(models) / stage).is_dir() else models


def _shapley(diagnosis: Diagnosis, found: Sequence[Gain]) -> dict[str, float]:
    """Of the computed fixes that win, at most eight, and only where two of them can overlap."""
    winners = [gain.name for gain in found if gain.measured and gain.errors.estimate > 0 and gain.cured > 0]
    changes, weights = {}, np.ones(len(diagnosis.table))
    for name in winners[: min(8, MAX_FIXES)]:
        change = REGISTRY[name].apply(diagnosis.table, suspicion(diagnosis, REGISTRY[name].classes))
        if change is not None and change.kept is None:
            changes[name], own = known_change(diagnosis.table, change)
            weights = np.maximum(weights, own)
    return shapley_of_changes(diagnosis.table, changes, weights) if len(changes) > 1 else {}
