"""What diagnosis may see of a planted world: a ``ProbeTable`` of the recent sample, and a ``Scorer`` that runs probes.

Enters: a ``Deployed`` system. Leaves: the two. Neither holds the fault, the kind of an item, or a true label: labels
are those that the team has, slices are metadata, features are measured from observations and from the system's own
parts (a probe head on its towers, an independent model, distances to the training data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tidegate.diagnosis.planted import nets
from tidegate.diagnosis.planted.items import CLAUSES, LANGUAGES, REGIONS, SURFACES, draw_items
from tidegate.diagnosis.planted.nets import LargeNet
from tidegate.diagnosis.planted.observe import NoiseTable, Observation, Pipeline
from tidegate.diagnosis.planted.world import (
    Deployed,
    Outcome,
    Setup,
    Split,
    noise_level,
    observed,
    outcome,
    seen_by_large,
    start,
    view,
)
from tidegate.diagnosis.table import Floats, ProbeTable

__all__ = ["CHANGES", "WorldScorer", "peer_scores", "restored", "table_of"]

Array = npt.NDArray[Any]


def restored(pipeline: Pipeline) -> Pipeline:
    """Decoded again with wider limits: what serving had recorded does not happen."""
    noted = pipeline.note != ""
    return pipeline.with_(noted, failed=False, span=1.0, audio_on=True, text_on=True, note="")


def _swap(*names: str) -> Callable[[Pipeline, Array], Pipeline]:
    def swapped(pipeline: Pipeline, matches: Array) -> Pipeline:
        for name in names:
            changes: dict[str, Any] = {name: matches}
            pipeline = pipeline.with_(**changes)
        return pipeline

    return swapped


def _set(**changes: Any) -> Callable[[Pipeline, Array], Pipeline]:
    return lambda pipeline, matches: pipeline.with_(**changes)


CHANGES: dict[str, Callable[[Pipeline, Array], Pipeline]] = {
    "null": _set(second_encoding=True),
    "retry": lambda pipeline, matches: restored(pipeline),
    "force_full": lambda pipeline, matches: pipeline,
    "audio_swap": _swap("audio_from"),
    "audio_mute": _set(audio_on=False),
    "vision_swap": _swap("vision_from"),
    "text_swap": _swap("text_from"),
    "text_drop": _set(text_on=False),
    "audio_only": _swap("vision_from", "text_from"),
    "vision_only": _swap("audio_from", "text_from"),
    "text_only": _swap("vision_from", "audio_from"),
    "text_gold": _set(sticker_true=True),
    "transcript_recognised": _set(transcript=1),
    "transcript_gold": _set(transcript=2),
    "translated_recognised": _set(transcript=1, translated=True),
    "translated_gold": _set(transcript=2, translated=True, sticker_true=True),
    "frames_more": lambda pipeline, matches: more_frames(pipeline),
    "frames_window": _set(window=True),
    "frames_shuffled": _set(shuffled=True),
    "resolution_up": lambda pipeline, matches: pipeline.with_(resolution=2 * pipeline.resolution),
    "crops": _set(tiles=True),
    "clean": _set(cleaned=True),
    "noise_mild": lambda pipeline, matches: pipeline.with_(noise=pipeline.noise + 0.4),
    "noise_strong": lambda pipeline, matches: pipeline.with_(noise=pipeline.noise + 1.0),
    "policy_other": lambda pipeline, matches: pipeline.with_(policy=1 - pipeline.policy),
}
"""Probe → how it changes the pipeline; ``matches`` holds a harmless item of the same language for each item."""


def more_frames(pipeline: Pipeline) -> Pipeline:
    """Four times the frames, evenly over the whole item."""
    return pipeline.with_(
        frames=np.minimum(4 * pipeline.frames, 32), span=1.0, bunched=0, shuffled=False, window=False
    )


def matches_of(split: Split, found: Outcome) -> Array:
    """For each item the row of a random item of the same language that is labelled harmless and was judged so."""
    rng = np.random.default_rng(len(split))
    matches = np.arange(len(split))
    harmless = (split.labels == 0) & ~found.flagged
    for language in range(len(LANGUAGES)):
        rows = np.flatnonzero(split.items.language == language)
        pool = rows[harmless[rows]]
        matches[rows] = rng.choice(pool, len(rows)) if len(pool) else rows
    return matches


class WorldScorer:
    """Scores a split's items again with one thing changed; ``a+b`` changes two."""

    combines = True

    def __init__(self, system: Deployed, split: str = "recent") -> None:
        self._system, self._split = system, split
        self._matches = matches_of(system.setup.splits[split], outcome(system, split))

    @property
    def probes(self) -> frozenset[str]:
        """All single probes."""
        return frozenset(CHANGES)

    def score(self, rows: npt.NDArray[np.int64], probe: str) -> Floats:
        """Scores on the scale of the table: held against the same thresholds; NaN where serving fails."""
        pipeline = self._system.setup.splits[self._split].pipeline
        for part in probe.split("+"):
            pipeline = CHANGES[part](pipeline, self._matches)
        found = outcome(self._system, self._split, rows=rows, pipeline=pipeline, force_large="force_full" in probe)
        return np.asarray(found.scores, dtype=np.float64)


def table_of(system: Deployed, split_name: str = "recent") -> ProbeTable:
    """The run as diagnosis sees it, without probes."""
    setup, split, found = system.setup, system.setup.splits[split_name], outcome(system, split_name)
    items, seen = split.items, observed(system.setup, split_name)
    return ProbeTable(
        ids=items.ids, labels=split.labels.astype(np.int64), scores=found.scores, thresholds=found.thresholds,
        sources=items.source.astype(str), base_scores=found.base, escalated=found.escalated, notes=split.pipeline.note,
        slices={
            "region": np.array(REGIONS)[items.region], "language": np.array(LANGUAGES)[items.language],
            "surface": np.array(SURFACES)[items.surface], "clause": np.array(CLAUSES)[items.clause],
            "period": np.array(["first", "second"])[items.period],
        },
        features={
            "knn_distance": _distance(observed(setup, "train"), seen), "peer_score": peer_scores(setup, split),
            "perceived": _perceived(system, seen), "noise_level": noise_level(seen),
            "duplicate_similarity": _similarity(observed(setup, "train"), seen),
        },
    )  # fmt: skip


def _similarity(train: Observation, seen: Observation) -> Array:
    """Highest cosine of the raw content with any training item."""
    closest: Array = (nets.fingerprint(seen) @ nets.fingerprint(train).T).max(axis=1)
    return closest.astype(np.float64)


def _channels(seen: Observation) -> list[tuple[Array, Array]]:
    """(vectors, is there anything) of each channel."""
    words = np.linalg.norm(seen.words_NW, axis=1) > 0
    texts = [(seen.text_NKW[:, k], seen.text_on_NK[:, k] > 0) for k in range(2)]
    everything = np.ones(len(seen), bool)
    return [(seen.frames_NTD.max(1), everything), (seen.sound_NE, everything), (seen.words_NW, words), *texts]


def _distance(train: Observation, seen: Observation, *, keep: int = 900) -> Array:
    """Distance to the third-nearest training item in the channel where it is largest, over what is usual there."""
    farthest = np.zeros(len(seen))
    for (old, has), (new, wanted) in zip(_channels(train), _channels(seen), strict=True):
        known = old[has][:keep].astype(np.float32)
        between = ((known[:150, None] - known[None, 150:]) ** 2).sum(-1) if len(known) > 300 else None
        if between is None or not wanted.any():
            continue
        usual = np.quantile(np.sqrt(np.partition(between, 3, axis=1)[:, 3]), 0.9)
        rows = new[wanted].astype(np.float32)
        squares = (known**2).sum(1)[None] - 2 * rows @ known.T
        distance = np.sqrt(np.maximum(np.partition(squares, 3, axis=1)[:, 3] + (rows**2).sum(1), 0.0))
        farthest[wanted] = np.maximum(farthest[wanted], distance / usual)
    return farthest


def _perceived(system: Deployed, seen: Observation) -> Array:
    """Whether a linear head on the towers finds evidence, modality by modality; fitted on validation data."""
    setup, labels = system.setup, system.setup.splits["validation"].labels
    known_NH = nets.embed(system.large, seen_by_large(setup, observed(setup, "validation")))
    new_NH = nets.embed(system.large, seen_by_large(setup, seen))
    centre, spread = known_NH.mean(0), known_NH.std(0) + 1e-6
    known_NH, new_NH = (np.column_stack([(x - centre) / spread, np.ones(len(x))]) for x in (known_NH, new_NH))
    weights = np.linalg.solve(known_NH.T @ known_NH + 30 * np.eye(known_NH.shape[1]), known_NH.T @ (2 * labels - 1))
    found: Array = 1 / (1 + np.exp(-4 * (new_NH @ weights)))
    return found.astype(np.float64)


@lru_cache(maxsize=4)
def _peer(seed: int) -> LargeNet:
    """An independent model: other data, other weights, half as much of both."""
    setup = start(seed).copy()
    rng, count = np.random.default_rng([seed, 71]), 2560
    split = setup.splits["train"]
    items = draw_items(rng, count, prefix="p")
    setup.change(
        "train", items=items, labels=items.label, pipeline=Pipeline.standard(count), rough_NR=split.rough_NR[:count],
        noise=(NoiseTable.draw(rng, count), NoiseTable.draw(rng, count)),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 999)
        net = LargeNet()
    nets.train(net, seen_by_large(setup, observed(setup, "train")), items.label, replace(setup.recipe, seed=seed + 999))
    return net


def peer_scores(setup: Setup, split: Split) -> Array:
    """Scores of the independent model, which decodes by itself and knows none of our pipeline."""
    pipeline = Pipeline.standard(len(split)).with_(second_encoding=True)
    seen = view(setup, split, np.arange(len(split)), pipeline)
    return nets.score(_peer(setup.seed), seen_by_large(setup, seen))
