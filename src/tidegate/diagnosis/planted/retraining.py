"""Interventions that train, really carried out, all with the same number of steps; the placebo trains on as before.

Enters: a ``Deployed`` system. Leaves: a copy, tuned further on the (possibly faulty) training data with a part of it
replaced by what the intervention brings, its threshold selected anew on the recent sample. A fault of the training code
stays unless the intervention is about that part; curated data is observed as the training data is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted import nets
from tidegate.diagnosis.planted.fault import resampled_train
from tidegate.diagnosis.planted.items import CLAUSE_OF_KIND, KINDS, MODALITY_OF_KIND, Items, draw_items, label_under
from tidegate.diagnosis.planted.nets import Recipe, fingerprint
from tidegate.diagnosis.planted.observe import NoiseTable, Pipeline
from tidegate.diagnosis.planted.remedies import PLAIN, Remedy, logit
from tidegate.diagnosis.planted.world import (
    Deployed,
    Split,
    observed,
    outcome,
    quality,
    seen_by_large,
    select_threshold,
    train_base,
    train_large,
)

__all__ = ["REMEDIES", "TRAINED", "placebo", "realised_gains"]

Array = npt.NDArray[Any]
Rng = np.random.Generator
EPOCHS, RATE = 3, 3e-3
CURATED = 900
"""Items that an intervention with new data brings."""


def _recipe(system: Deployed, **changes: object) -> Recipe:
    tuned = replace(system.setup.recipe, epochs=EPOCHS, learning_rate=RATE, seed=system.setup.recipe.seed + 500)
    return replace(tuned, **changes)  # type: ignore[arg-type]


def _tuned(system: Deployed, **changes: object) -> Deployed:
    """Train the large stage on, and select its threshold anew; offsets of slice thresholds stay."""
    offsets = {key: logit(np.array(t)) - logit(np.array(system.threshold)) for key, t in system.threshold_of.items()}
    train_large(system.setup, system.large, _recipe(system, **changes))
    system.threshold_of = {}
    select_threshold(system, "recent")
    now = logit(np.array(system.threshold))
    system.threshold_of = {key: float(1 / (1 + np.exp(-(now + offset)))) for key, offset in offsets.items()}
    return system


def placebo(system: Deployed, rng: Rng) -> Deployed:
    """As many steps, nothing changed."""
    return _tuned(system.copy())


def curated(rng: Rng, count: int, kinds: Sequence[int] | None = None) -> Split:
    """New items with true labels under the current policy, observed as training data is."""
    items = draw_items(rng, count, prefix="n", kinds=kinds, prevalence=0.5)
    return Split(
        name="curated", items=items, noise=(NoiseTable.draw(rng, count), NoiseTable.draw(rng, count)),
        pipeline=Pipeline.standard(count), labels=items.label, rough_NR=rng.normal(size=(count, 122)),
    )  # fmt: skip


def _with_extra(system: Deployed, extra: Split, rng: Rng) -> Deployed:
    """A copy in which ``extra`` takes the place of as many training items."""
    changed, train = system.copy(), system.setup.splits["train"]
    kept = np.sort(rng.choice(len(train), len(train) - len(extra), replace=False))
    own = np.arange(len(train))
    moved = np.full(len(train), -1)
    moved[kept] = np.arange(len(kept))
    joined = {}
    for name, column in vars(train.pipeline).items():
        old, new = column[kept], getattr(extra.pipeline, name)
        if name.endswith("_from"):
            old, new = np.where(moved[old] < 0, own[: len(kept)], moved[old]), new + len(kept)
        joined[name] = np.concatenate([old, new])
    noise = [
        NoiseTable(**{name: np.concatenate([getattr(a, name)[kept], getattr(b, name)]) for name in vars(a)})
        for a, b in zip(train.noise, extra.noise, strict=True)
    ]
    changed.setup.splits["train"] = Split(
        name="train", items=content.joined([train.items.rows(kept), extra.items]), noise=(noise[0], noise[1]),
        pipeline=Pipeline(**joined), labels=np.concatenate([train.labels[kept], extra.labels]),
        rough_NR=np.concatenate([train.rough_NR[kept], extra.rough_NR]),
    )  # fmt: skip
    changed.setup.base_labels = np.concatenate([system.setup.base_labels[kept], extra.items.label])
    return changed


def _extra_data(make: Callable[[Deployed, Rng], Split], **changes: object) -> Remedy:
    def remedy(system: Deployed, rng: Rng) -> Deployed:
        return _tuned(_with_extra(system, make(system, rng), rng), **changes)

    return remedy


def _harmless(items: Items, rng: Rng) -> Array:
    return rng.choice(np.flatnonzero(items.label == 0), len(items))


def _single_modality(system: Deployed, rng: Rng) -> Split:
    """Evidence in one modality, the others of a harmless item: nothing else can be learnt from."""
    extra = curated(rng, CURATED, [0, 1, 2, 3, 4, 5, 6, 7])
    about = MODALITY_OF_KIND[np.maximum(np.maximum(extra.items.kind, extra.items.imitates), 0)]
    pipeline, other = extra.pipeline, _harmless(extra.items, rng)
    for modality in ("vision", "audio", "text"):
        rows = (about != modality) & (rng.random(len(extra)) < 0.7)
        pipeline = pipeline.with_(rows, **{f"{modality}_from": other[rows]})
    return replace(extra, pipeline=pipeline)


def _swapped_training(system: Deployed, rng: Rng) -> Deployed:
    """Half of the items whose evidence is not heard get the audio of another item."""
    changed, train = system.copy(), system.setup.splits["train"]
    heard = np.isin(train.items.kind, np.flatnonzero(np.isin(MODALITY_OF_KIND, ["audio", "several"])))
    rows = np.flatnonzero(~heard & (rng.random(len(train)) < 0.6))
    changed.setup.change("train", pipeline=train.pipeline.with_(rows, audio_from=rng.choice(_quiet(train), len(rows))))
    return _tuned(changed)


def _quiet(train: Split) -> Array:
    """Rows whose audio holds no evidence."""
    told = np.isin(train.items.kind, np.flatnonzero(np.isin(MODALITY_OF_KIND, ["audio", "several"])))
    return np.flatnonzero(~told & (train.items.imitates != 8))


def _conflicts(system: Deployed, rng: Rng) -> Split:
    """Evidence in one modality beside loud music or heaps of words; the same in harmless items as often."""
    extra = curated(rng, CURATED)
    extra.items.tone_NA[:, content.MUSIC] = rng.random(len(extra)) < 0.6
    heaps = system.setup.splits["recent"].items.tags
    if heaps.any():
        extra.items.tags[:] = rng.choice(heaps, len(extra))
    return extra


def _aligned(system: Deployed, rng: Rng) -> Split:
    """More hours of speech and sound, heard by the deployed encoder."""
    extra = curated(rng, CURATED, [6, 7, 8])
    deployed = system.setup.splits["recent"].pipeline
    rows = rng.integers(len(deployed.policy), size=len(extra))
    return replace(
        extra,
        pipeline=extra.pipeline.with_(
            hear_errors=deployed.hear_errors[rows], smear=deployed.smear[rows], unheard=deployed.unheard[rows],
            softened=deployed.softened[rows],
        ),
    )


def _stronger_encoder(system: Deployed, rng: Rng) -> Deployed:
    """Another encoder and another reader of on-screen text, for training and deployment."""
    changed = system.copy()
    for name, split in changed.setup.splits.items():
        better = split.pipeline.with_(
            hear_errors=0.01, read_errors=0.01, smear=0.0, unheard=0.0, softened=0.0, unread=0.0
        )  # fmt: skip
        changed.setup.change(name, pipeline=better)
    return _tuned(changed)


def _augmentation(system: Deployed, rng: Rng) -> Deployed:
    """Half of the training items are disturbed: noise, or a coarse quantisation."""
    changed, train = system.copy(), system.setup.splits["train"]
    chance, count = rng.random(len(train)), len(train)
    noise = np.where(chance < 0.35, rng.uniform(0, 1.4, count), 0)
    step = np.where(chance > 0.8, rng.uniform(0.5, 2.5, count), 0)
    changed.setup.change("train", pipeline=train.pipeline.with_(noise=noise, quantised=step))
    return _tuned(changed)


def _locale(system: Deployed, rng: Rng) -> Split:
    """More items of the language that errs most."""
    split, found = system.setup.splits["recent"], outcome(system, "recent")
    wrong = found.flagged != (split.labels == 1)
    worst = max(range(len(content.LANGUAGES)), key=lambda lang: float(wrong[split.items.language == lang].mean()))
    extra = curated(rng, CURATED)
    moved = replace(extra.items, region=2 * worst + rng.integers(2, size=CURATED), language=np.full(CURATED, worst))
    return replace(extra, items=moved)


def _policies(system: Deployed, rng: Rng) -> Split:
    """What the two versions of the policy judge differently, rightly labelled under both."""
    extra = curated(rng, CURATED, [0, *np.flatnonzero(np.isin(CLAUSE_OF_KIND, (2, 4, 5)))])
    policy = (rng.random(CURATED) < 0.6).astype(np.int64)
    return replace(extra, pipeline=extra.pipeline.with_(policy=policy), labels=label_under(extra.items, policy))


def _similar(system: Deployed, rng: Rng) -> Split:
    """Recent items like those that were missed: 500, labelled and seen as deployed."""
    split, found = system.setup.splits["recent"], outcome(system, "recent")
    missed = (split.labels == 1) & ~found.flagged
    prints = fingerprint(observed(system.setup, "recent"))
    near = (prints @ prints[missed].T).max(axis=1) if missed.any() else rng.random(len(split))
    rows = np.sort(np.argsort(-near)[:500])
    own = np.arange(len(rows))
    pipeline = split.pipeline.rows(rows).with_(audio_from=own, vision_from=own, text_from=own)
    return Split(
        name="similar", items=split.items.rows(rows), noise=(split.noise[0].rows(rows), split.noise[1].rows(rows)),
        pipeline=pipeline, labels=split.labels[rows], rough_NR=split.rough_NR[rows],
    )  # fmt: skip


def _deduplicated(system: Deployed, rng: Rng) -> Deployed:
    """Training items that lie in the recent sample too are dropped."""
    changed = system.copy()
    alike = fingerprint(observed(system.setup, "train")) @ fingerprint(observed(system.setup, "recent")).T
    resampled_train(changed.setup, alike.max(axis=1) < 0.93, rng)
    return _tuned(changed)


def _base_tuned(target: Callable[[Deployed, Array], Array]) -> Remedy:
    """Train the base stage on; tau then escalates as many recent items as before."""

    def remedy(system: Deployed, rng: Rng) -> Deployed:
        changed = system.copy()
        before = outcome(system, "recent")
        goal = target(system, system.setup.base_labels)
        train_base(changed.setup, changed.base, _recipe(system, epochs=2 * EPOCHS), goal)
        changed.tau, changed.tau_of = 0.0, {}
        after = np.nan_to_num(outcome(changed, "recent").base)
        changed.tau = float(np.quantile(after, 1 - before.escalated.mean()))
        return changed

    return remedy


def _hard(system: Deployed, labels: Array) -> Array:
    """Towards the true labels, with room for what the base stage finds hard: soft targets for hard positives."""
    seen = nets.cheap_look(observed(system.setup, "train"), system.setup.splits["train"].rough_NR)
    scores, truth = nets.score(system.base, seen), system.setup.splits["train"].items.label
    easy = (truth == 1) & (scores > np.quantile(scores[truth == 1], 0.5))
    return np.where(easy, 0.8, truth)


def _soft(system: Deployed, labels: Array) -> Array:
    return nets.score(system.large, seen_by_large(system.setup, observed(system.setup, "train")))


TRAINED: dict[str, Remedy] = {
    "hard_positives": _base_tuned(_hard),
    "distil": _base_tuned(_soft),
    "modality_dropout": lambda system, rng: _tuned(system.copy(), modality_dropout=0.3, silenced=None, joins=None),
    "modality_tuning": _extra_data(_single_modality, silenced=None, joins=None),
    "early_fusion": lambda system, rng: _tuned(system.copy(), early_fusion=True, silenced=None, joins=None),
    "alignment_hours": _extra_data(_aligned),
    "stronger_encoder": _stronger_encoder,
    "swapped_training": _swapped_training,
    "conflict_data": _extra_data(_conflicts),
    "temporal_tuning": _extra_data(lambda system, rng: curated(rng, CURATED, [2, 3]), orderless=False),
    "augmentation": _augmentation,
    "locale_data": _extra_data(_locale),
    "policy_tuning": _extra_data(_policies),
    "collect_similar": _extra_data(_similar),
    "deduplicate": _deduplicated,
}
"""Intervention → what it does."""
REMEDIES: dict[str, Remedy] = PLAIN | TRAINED
"""Every intervention of the taxonomy."""
assert len(KINDS) == len(MODALITY_OF_KIND)


def realised_gains(system: Deployed, seed: int, names: Sequence[str] | None = None) -> dict[str, float]:
    """Intervention → F1 of the test split after it, minus before; ``placebo`` beside. Every one is really run."""
    before = quality(system)
    gains = {}
    for name, remedy in ({"placebo": placebo} | REMEDIES).items():
        if names is None or name in names:
            gains[name] = quality(remedy(system, np.random.default_rng([seed, 5]))) - before
    return gains
