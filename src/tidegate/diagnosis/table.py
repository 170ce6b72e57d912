"""``ProbeTable``: the scores of one run's items, as they are and with one thing changed.

Enters: arrays of one length N. Leaves: a checked, frozen value that every other file of this room reads. It knows no
model and no clip, so that a table of a foreign model's scores does as well as one of our own probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError

__all__ = ["Floats", "ProbeTable", "Scorer", "Strings"]

Floats = npt.NDArray[np.float64]
Strings = npt.NDArray[np.str_]


class Scorer(Protocol):
    """Something that can score items again with one thing changed."""

    @property
    def probes(self) -> frozenset[str]:
        """Ids of the probes it can run."""

    def score(self, rows: npt.NDArray[np.int64], probe: str) -> Floats:
        """Scores of the items at ``rows`` under ``probe``; NaN where it does not apply or failed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeTable:
    """N items of one split. All arrays have length N; NaN means not known, not run, or not applicable: never 0."""

    ids: Strings
    labels: npt.NDArray[np.int64]
    """1 violates, 0 does not."""
    scores: Floats
    """Score that decided, of whichever stage; NaN: the item failed (see ``notes``)."""
    thresholds: Floats
    """Threshold that the score was held against; flagged when ``scores >= thresholds``."""
    sources: Strings
    """Clusters for intervals (uploader or source video)."""
    slices: Mapping[str, Strings] = field(default_factory=dict)
    """Metadata column → value of each item: ``region``, ``language``, ``clause``, ``period``; empty: not known."""
    base_scores: Floats | None = None
    """Score of the cheap stage; None for a single stage."""
    escalated: npt.NDArray[np.bool_] | None = None
    """Whether the large stage was asked; None for a single stage."""
    probes: Mapping[str, Floats] = field(default_factory=dict)
    """Probe id → score of each item under it."""
    applied: Mapping[str, Floats] = field(default_factory=dict)
    """Probe id → score of each item if the probe's change were deployed: as it was where the probe does not apply.
    Known of more items than in ``probes``, and of others than a cause is told by: gains are measured on it."""
    features: Mapping[str, Floats] = field(default_factory=dict)
    """Observations that are no probe: ``knn_distance``, ``peer_score`` (of independent models), ``perceived`` (does a
    probe head find the evidence), ``noise_level``, ``duplicate_similarity``."""
    embeddings_ND: Floats | None = None
    """What a model that is independent of the run's verdict makes of each item, D numbers; None: not known."""
    hashes: Strings | None = None
    """Perceptual hash of each item as 64 hexadecimal digits (PDQ of its middle frame); empty: not known."""
    notes: Strings | None = None
    """What serving recorded (``timeout``, ``truncated``, ``decode_failure``, ``missing_audio``); empty: nothing."""

    def __post_init__(self) -> None:
        columns = {"labels": self.labels, "scores": self.scores, "thresholds": self.thresholds, "sources": self.sources}
        columns |= {f"slices[{name}]": column for name, column in self.slices.items()}
        columns |= {f"probes[{name}]": column for name, column in self.probes.items()}
        columns |= {f"applied[{name}]": column for name, column in self.applied.items()}
        columns |= {f"features[{name}]": column for name, column in self.features.items()}
        for name in ("base_scores", "escalated", "hashes", "notes"):
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name)
        if self.embeddings_ND is not None:
            columns["embeddings_ND"] = self.embeddings_ND[:, 0]
        for name, column in columns.items():
            if column.shape != self.ids.shape:
                raise ConfigError(f"expected {name} of shape {self.ids.shape}, found {column.shape}")
        if len(set(self.ids.tolist())) != len(self.ids):
            raise ConfigError("expected every item once, found an id twice")
        if not np.isin(self.labels, (0, 1)).all():
            raise ConfigError("expected labels 0 and 1")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """Whether each item was flagged; an item without a score was not."""
        flagged: npt.NDArray[np.bool_] = np.nan_to_num(self.scores, nan=-np.inf) >= self.thresholds
        return flagged

    @cached_property
    def errors(self) -> npt.NDArray[np.bool_]:
        """Whether each item's verdict differs from its label; failed items count as wrong, whatever their label."""
        wrong: npt.NDArray[np.bool_] = (self.flagged != (self.labels == 1)) | np.isnan(self.scores)
        return wrong
