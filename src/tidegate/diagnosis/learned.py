"""The learned classifier: fitted on runs with planted faults, it replaces the rules' numbers by measured ones.

Enters: runs whose fault is known. Leaves: a ``LearnedClassifier`` that ranks a run's classes (``none`` among them) and
gives each error a posterior, calibrated on runs that were not fitted on. It is stored as one safetensors file: arrays
and names, nothing that runs code. The error model is told what the run model says, as it was said out of fold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.classify import CLASSES, NONE, Classified, RulesConfig, classify, log_ratios
from tidegate.diagnosis.features import item_features, item_names, ranked_names, run_features, run_names, with_context
from tidegate.diagnosis.forest import Blend, BlendConfig, fit_blend
from tidegate.diagnosis.networks import NetworkConfig
from tidegate.diagnosis.observations import Observations, observe
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import PROBES, FailureClass
from tidegate.errors import CheckpointError, UsageError

__all__ = ["SHIPPED", "FitConfig", "LearnedClassifier", "PlantedRun", "PreparedRun", "fit", "judge_of",
           "load_classifier", "none_bias_of", "prepare", "probed_fully", "shipped_classifier", "toward_none"]

_FORMAT = "tidegate-diagnosis-2"
_MOST_PROBES, _MANY_ERRORS = 22, 40
_FOR_ALL = ("clean", "noise_mild", "noise_strong", "policy_other", "frames_shuffled", "vision_swap")
"""Probes that apply to nearly every item."""
SHIPPED = Path(__file__).parent / "weights" / "classifier.safetensors"
"""Where the classifier that comes with the package lies."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedRun:
    """A run whose fault is known."""

    table: ProbeTable
    """With all probes that a diagnosis would have."""
    fault: str
    """Class id, or ``none``. Of two faults: the one of more errors."""
    caused: npt.NDArray[np.bool_]
    """(N,) whether an item is wrong because of the fault."""
    group: int = 0
    """Runs of one group (world, seed) never lie on two sides of a fold."""
    extra_errors: int = 0
    """Errors with the fault, minus without; the fit does not know it, only its score does."""
    mechanism: str = ""
    """Which of its class's mechanisms the fault is; known to scores alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """Features of a run whose fault is known: all that a fit needs of it."""

    fault: str
    group: int
    extra_errors: int
    items: int
    """Of the whole run."""
    fully: bool
    """Whether every probe was run on every error."""
    run_F: Floats
    errors_EF: Floats
    """Without context."""
    mechanism: str = ""
    """Known to scores alone, like ``extra_errors``."""
    due_E: npt.NDArray[np.bool_]
    """Whether each of these errors is there because of the fault."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How both models are fitted."""

    run: BlendConfig = field(default_factory=BlendConfig)
    """The model of runs."""
    error: BlendConfig = field(default_factory=lambda: BlendConfig(
        num_trees=60, min_leaf=30, max_depth=12, folds=3, networks=NetworkConfig(epochs=10, seeds=2, batch_size=256)))
    """The model of errors."""
    false_alarms: float = 0.05
    """Share of the fitting runs without a fault that may name one, out of fold, by either kind of probing and
    in runs of any size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedClassifier:
    """Two fitted models: of runs and of errors."""

    run: Blend
    error: Blend
    notes: str = ""
    """What it was fitted on."""
    none_bias: float = 0.0
    """Added to the log-odds of ``none`` where every error was probed fully, so that fitting runs without a fault seldom
    raise an alarm out of fold."""
    none_bias_in_part: float = 0.0
    """The same where errors were probed in part."""

    def judge(self, table: ProbeTable, seen: Observations, rules: RulesConfig | None = None
              ) -> tuple[Classified, tuple[tuple[str, float], ...]]:
        """(posterior of each error, ranking of the run)."""
        config = rules or RulesConfig()
        by_rules = classify(seen, config=config)
        probabilities = self.run.probabilities(run_features(table, seen, by_rules)[None, :])[0]
        ranking = dict.fromkeys(ranked_names(), 0.0)
        ranking |= dict(zip(self.run.classes, map(float, probabilities), strict=True))
        ranking = toward_none(ranking, self.none_bias if probed_fully(table) else self.none_bias_in_part)
        context = np.asarray([ranking[name] for name in ranked_names()])
        posterior = np.zeros((len(seen.rows), len(CLASSES)))
        if len(seen.rows):
            rows = with_context(item_features(table, seen, log_ratios(seen, config=config), by_rules), context)
            columns = [CLASSES.index(FailureClass(name)) for name in self.error.classes]
            posterior[:, columns] = self.error.probabilities(rows)
        means = posterior.mean(axis=0) if len(posterior) else np.zeros(len(CLASSES))
        shares = {failure: float(means[c]) for c, failure in enumerate(CLASSES)}
        classified = Classified(rows=seen.rows, posterior_EC=posterior, variants=by_rules.variants, shares=shares)
        return classified, tuple(sorted(ranking.items(), key=lambda pair: -pair[1]))

    def save(self, path: Path) -> None:
        """Write one safetensors file, complete or not at all."""
        from safetensors.numpy import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        said = {"format": _FORMAT, "run_classes": json.dumps(self.run.classes), "notes": self.notes,
                "error_classes": json.dumps(self.error.classes), "run_names": json.dumps(run_names()),
                "error_names": json.dumps(item_names()), "none_bias": repr(self.none_bias),
                "none_bias_in_part": repr(self.none_bias_in_part)}
        arrays = {name: np.ascontiguousarray(array)
                  for name, array in (self.run.arrays("run") | self.error.arrays("error")).items()}
        part = path.with_suffix(".part")
        save_file(arrays, part, metadata=said)
        part.replace(path)


def toward_none(ranking: dict[str, float], bias: float) -> dict[str, float]:
    """The ranking with ``bias`` added to the log-odds of ``none``."""
    scaled = ranking | {NONE: ranking[NONE] * float(np.exp(bias))}
    total = sum(scaled.values())
    return {name: value / total for name, value in scaled.items()}


def none_bias_of(probabilities: Floats, classes: Sequence[str], truth: Sequence[str], *, false_alarms: float = 0.05
                 ) -> float:
    """The least bias with which at most that share of the runs without a fault names one, out of fold."""
    place = list(classes).index(NONE)
    quiet = np.log(probabilities[np.asarray(truth) == NONE] + 1e-9)
    lead = np.delete(quiet, place, axis=1).max(axis=1) - quiet[:, place]
    return max(0.0, float(np.quantile(lead, 1 - false_alarms, method="higher")) + 1e-6) if len(lead) else 0.0


def load_classifier(path: Path) -> LearnedClassifier:
    """Read what ``save`` wrote; a file of other features is a ``CheckpointError``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            said = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"expected a classifier at {path}, found none that can be read: {error}") from error
    if said.get("format") != _FORMAT:
        raise CheckpointError(f"expected format {_FORMAT} in {path}, found {said.get('format')!r}")
    expected = {"run_names": list(run_names()), "error_names": list(item_names())}
    for key, names in expected.items():
        if json.loads(said[key]) != names:
            raise CheckpointError(f"{path} was fitted on other features than this release makes ({key}); fit it again")
    return LearnedClassifier(
        run=Blend.from_arrays(arrays, "run", tuple(json.loads(said["run_classes"]))),
        error=Blend.from_arrays(arrays, "error", tuple(json.loads(said["error_classes"]))),
        notes=said.get("notes", ""), none_bias=float(said.get("none_bias", 0.0)),
        none_bias_in_part=float(said.get("none_bias_in_part", 0.0)),
    )


def shipped_classifier() -> LearnedClassifier | None:
    """The classifier that comes with the package; None if this build has none."""
    return load_classifier(SHIPPED) if SHIPPED.exists() else None


def judge_of(choice: str, table: ProbeTable, scorable: frozenset[str] = frozenset()
             ) -> tuple[LearnedClassifier | None, str]:
    """(classifier, or None for the rules; what a report says of it).

    ``auto`` takes the shipped classifier only for runs like those it was fitted on (full or adaptive probing), with
    most probes at hand and not too few errors: elsewhere its probabilities mean nothing, and the rules, which know what
    they lack, judge.
    """
    if choice not in ("rules", "learned", "auto"):
        raise UsageError(f"expected rules, learned or auto, got {choice!r}")
    alike = len(set(PROBES) & (set(table.probes) | scorable)) >= _MOST_PROBES and table.errors.sum() >= _MANY_ERRORS
    found = None if choice == "rules" or (choice == "auto" and not alike) else shipped_classifier()
    if choice == "learned" and found is None:
        raise UsageError("this build ships no fitted classifier: use --judge rules")
    return found, "the rules" if found is None else f"the fitted classifier ({found.notes or 'planted faults'})"


def probed_fully(table: ProbeTable) -> bool:
    """Whether nearly every error has a score under those probes that apply to any item; of the others, which want a
    modality or a truth, missing scores say nothing."""
    errors = table.errors
    shares = [float(np.isfinite(scores[errors]).mean()) for probe, scores in table.probes.items()
              if probe in _FOR_ALL and errors.any()]
    return bool(shares) and min(shares) > 0.9


def prepare(run: PlantedRun, *, max_errors: int = 15, seed: int = 0) -> PreparedRun:
    """Features of a run, and of at most ``max_errors`` of its errors, so that bad runs do not drown the others."""
    seen = observe(run.table)
    ruling = classify(seen)
    kept = np.sort(np.random.default_rng([seed, run.group, len(seen.rows)]).permutation(len(seen.rows))[:max_errors])
    errors = item_features(run.table, seen, log_ratios(seen), ruling)
    due = run.caused[seen.rows[kept]] & (run.fault != NONE)
    return PreparedRun(fault=run.fault, group=run.group, fully=probed_fully(run.table), due_E=due,
                       items=len(run.table), extra_errors=run.extra_errors, mechanism=run.mechanism,
                       run_F=run_features(run.table, seen, ruling), errors_EF=errors[kept])


def fit(runs: Sequence[PreparedRun], config: FitConfig | None = None, *, seed: int = 0, notes: str = ""
        ) -> tuple[LearnedClassifier, list[dict[str, float]]]:
    """(both models fitted, what the model of runs says of each run out of fold, biases of ``none`` included).

    The model of errors is told the latter, without the biases.
    """
    if not runs:
        raise UsageError("expected runs with planted faults to fit on, got none")
    config = config or FitConfig()
    groups = np.unique([run.group for run in runs], return_inverse=True)[1].astype(np.int64)
    truth = np.asarray([run.fault for run in runs])
    run_model, held_out = fit_blend(np.stack([run.run_F for run in runs]), truth, groups, config.run, seed=seed)
    context = np.zeros((len(runs), len(ranked_names())))
    context[:, [ranked_names().index(name) for name in run_model.classes]] = held_out
    rows = np.concatenate([with_context(run.errors_EF, context[n]) for n, run in enumerate(runs)])
    targets = np.asarray([run.fault if is_due else FailureClass.UNDETERMINED.value for run in runs
                          for is_due in run.due_E.tolist()])
    owners = np.concatenate([np.full(len(run.due_E), groups[n]) for n, run in enumerate(runs)])
    error_model, _ = fit_blend(rows, targets, owners, config.error, seed=seed)
    fully = np.asarray([run.fully for run in runs])
    sizes = np.asarray([run.items for run in runs])
    biases = [max(_bias(held_out[own], run_model.classes, truth[own], config.false_alarms)
                  for own in (kind & (sizes == size) for size in np.unique(sizes))) for kind in (fully, ~fully)]
    fitted = LearnedClassifier(run=run_model, error=error_model, notes=notes, none_bias=biases[0],
                               none_bias_in_part=biases[1])
    said = [dict.fromkeys(ranked_names(), 0.0) | dict(zip(run_model.classes, row, strict=True))
            for row in held_out.tolist()]
    return fitted, [toward_none(one, biases[0] if run.fully else biases[1])
                    for one, run in zip(said, runs, strict=True)]


def _bias(held_out: Floats, classes: tuple[str, ...], truth: npt.NDArray[np.str_], false_alarms: float) -> float:
    known = NONE in classes and len(truth) > 0
    return none_bias_of(held_out, classes, truth.tolist(), false_alarms=false_alarms) if known else 0.0
