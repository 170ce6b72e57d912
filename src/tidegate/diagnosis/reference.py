"""``Reference``: the training items, to say of a run's items how far, how like and how labelled they are.

Enters: embeddings (and labels, perceptual hashes) of training items, and a ``ProbeTable`` with the same of the run's.
Leaves: the table with ``knn_distance``, ``duplicate_similarity`` and ``peer_score`` filled in where it lacked them.
Peers are out-of-fold models on the embeddings (cleanlab's way): they saw neither the item they judge nor the model.

Shape legend: M training items, N items of the run, D embedding size.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.diagnosis.thresholds import folds_of
from tidegate.errors import ConfigError
from tidegate.evaluation import roc_auc

__all__ = ["Reference", "hash_similarity", "nearest", "peer_scores", "with_reference"]

_BLOCK = 512
_LEAST_PEER_AUC = 0.7
"""Peers that tell the classes worse than this are no witnesses: they are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """M training items."""

    embeddings_MD: Floats
    labels: npt.NDArray[np.int64] | None = None
    """1 violates, 0 does not; None: no peers are fitted on them."""
    hashes: Strings | None = None
    """As ``ProbeTable.hashes``."""

    def __post_init__(self) -> None:
        for name in ("labels", "hashes"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.embeddings_MD):
                raise ConfigError(f"expected {len(self.embeddings_MD)} {name}, got {len(value)}")


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = rows / np.where(lengths > 0, lengths, 1.0)
    return unit


def nearest(rows_ND: Floats, others_MD: Floats, *, neighbours: int = 5) -> tuple[Floats, Floats]:
    """(mean cosine distance to the nearest ``neighbours``, cosine similarity of the nearest one) of each row."""
    ours, theirs = _unit(rows_ND), _unit(others_MD)
    count = min(neighbours, len(theirs))
    distance, similarity = np.full(len(ours), np.nan), np.full(len(ours), np.nan)
    for start in range(0, len(ours) if count else 0, _BLOCK):
        alike = ours[start : start + _BLOCK] @ theirs.T
        best = np.partition(alike, -count, axis=1)[:, -count:]
        distance[start : start + _BLOCK] = 1.0 - best.mean(axis=1)
        similarity[start : start + _BLOCK] = best.max(axis=1)
    return distance, similarity


def hash_similarity(ours: Strings, theirs: Strings) -> Floats:
    """Share of equal bits with the most similar of ``theirs``; NaN where a hash is not known.

    Two unrelated pictures share about half of PDQ's 256 bits; a distance of 31 bits (similarity .88) is its
    makers' threshold for the same picture, so the scale is stretched to put that at .95.
    """
    known = [text for text in theirs.tolist() if text]
    table = np.unpackbits(np.frombuffer(bytes.fromhex("".join(known)), dtype=np.uint8).reshape(len(known), -1), axis=1)
    found = np.full(len(ours), np.nan)
    for row, text in enumerate(ours.tolist()):
        if text and known:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
            apart = int((table != bits).sum(axis=1).min()) / len(bits)
            found[row] = max(0.0, 1.0 - 0.05 * apart / (31 / 256))
    return found


def peer_scores(embeddings_ND: Floats, labels: npt.NDArray[np.int64], sources: Strings,
                reference: Reference | None = None) -> Floats:
    """Probability of the violating class of each item by models that saw neither it nor its source."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds, scores = folds_of(sources), np.full(len(labels), np.nan)
    extra = reference is not None and reference.labels is not None
    for fold in np.unique(folds):
        rows, truth = embeddings_ND[folds != fold], labels[folds != fold]
        if extra and reference is not None and reference.labels is not None:
            rows, truth = np.vstack([rows, reference.embeddings_MD]), np.concatenate([truth, reference.labels])
        if len(set(truth.tolist())) == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(rows, truth)
            scores[folds == fold] = model.predict_proba(embeddings_ND[folds == fold])[:, 1]
    return scores


def with_reference(table: ProbeTable, reference: Reference) -> ProbeTable:
    """The table with the features that the reference allows; what it has already is left alone."""
    features = dict(table.features)
    if table.embeddings_ND is not None:
        if table.embeddings_ND.shape[1] != reference.embeddings_MD.shape[1]:
            raise ConfigError(f"expected embeddings of {table.embeddings_ND.shape[1]} numbers, got "
                              f"{reference.embeddings_MD.shape[1]}")
        distance, similarity = nearest(table.embeddings_ND, reference.embeddings_MD)
        features.setdefault("knn_distance", distance)
        if table.hashes is None or reference.hashes is None:
            features.setdefault("duplicate_similarity", np.where(similarity >= 0.999, similarity, similarity * 0.94))
        if "peer_score" not in features and reference.labels is not None:
            peers = peer_scores(table.embeddings_ND, table.labels, table.sources, reference)
            known = np.isfinite(peers)
            if known.any() and roc_auc(table.labels[known], peers[known]) >= _LEAST_PEER_AUC:
                features["peer_score"] = peers
    if table.hashes is not None and reference.hashes is not None:
        features.setdefault("duplicate_similarity", hash_similarity(table.hashes, reference.hashes))
    return dataclasses.replace(table, features=features)
