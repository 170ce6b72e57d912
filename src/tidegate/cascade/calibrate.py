"""A file of audit scores and a wanted promise → certificate, policy thresholds, recall-cost curve.

The work behind ``tidegate calibrate``. What leaves is JSON-able; ``write`` puts ``certificate.json`` and
``policy-thresholds.toml`` (the ``[cascade]`` table of a policy file) into a folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade import bounds
from tidegate.cascade.certificates import Audit, Certificate, certify_finite, read_audit, share_at
from tidegate.cascade.joint import certify
from tidegate.cascade.regions import RegionThreshold, region_thresholds
from tidegate.cascade.score_file import ScoreFile, read_column, read_score_file
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import checked_scores

__all__ = ["Calibrated", "CalibrationConfig", "CurvePoint", "calibrate", "recall_cost_curve"]

FloatArray = npt.NDArray[np.float64]
CURVE_RECALLS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """What to certify."""

    scores: Path
    """Parquet or CSV: ``video_id, base, large[, label][, region][, propensity]``."""
    target_recall: float | None = None
    """Share of what the large model finds alone that the cascade must find."""
    precision: float | None = None
    """Precision of what the cascade flags; needs labels."""
    delta: float = 0.05
    """Probability with which the promise may fail."""
    lam: float | None = None
    """Flag threshold of the large model. None: 0.5, or chosen on a split of the file when a precision is promised."""
    traffic: Path | None = None
    """File with a ``base`` column of all traffic, for the share escalated; None: the audit's own scores."""
    tuning: Path | None = None
    """File whose ``video_id`` were used for training or choosing; none of them may be in the audit."""
    collection_size: int | None = None
    """Number of videos of a fixed collection that the audit was drawn from without replacement; None: a stream."""
    seed: int = 0
    """Seed of the selection split."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One recall on the recall-cost curve."""

    recall: float
    estimated_share: float
    """Share escalated at the audit's own threshold for this recall: an estimate, no promise."""
    certified_share: float
    """Share escalated at the certified threshold; 1 where the audit cannot bear the promise."""
    certified: bool


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """All that ``tidegate calibrate`` prints and writes."""

    certificate: Certificate
    curve: tuple[CurvePoint, ...]
    regions: tuple[RegionThreshold, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the certificate's fields at the top level."""
        return {
            **self.certificate.to_dict(),
            "curve": [vars(point) for point in self.curve],
            "regions": [
                {
                    "region": entry.region,
                    "tau_estimate": entry.tau,
                    "certified": entry.certificate.certified,
                    "certified_tau": entry.certified_tau,
                    "n_positives": entry.n_positives,
                    "own_weight": entry.own_weight,
                    "reason": entry.certificate.reason,
                }
                for entry in self.regions
            ],
        }

    def policy(self) -> str:
        """The thresholds as the ``[cascade]`` tables of a policy file."""
        mine = self.certificate
        lines = [f"# certificate {mine.certificate_id}: {mine.target}, delta {mine.delta:g}"]
        lines += [f"# {mine.reason}", f"# lam (flag threshold of the large stage): {mine.lam:.6g}", "[cascade]"]
        lines += _routing(mine)
        for entry in self.regions:
            if entry.region is not None and entry.certificate.certified:
                lines += ["", f"# certificate {entry.certificate.certificate_id}", f"[region.{entry.region}.cascade]"]
                lines += _routing(entry.certificate)
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, policy = folder / "certificate.json", folder / "policy-thresholds.toml"
        certificate.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        policy.write_text(self.policy(), encoding="utf-8")
        return certificate, policy


def _routing(certificate: Certificate) -> list[str]:
    if not certificate.certified or certificate.tau == -math.inf:
        return ['rule = "always"']
    return ['rule = "precision"', f"tau = {certificate.tau!r}"]


def recall_cost_curve(audit: Audit, *, lam: float, delta: float, traffic: FloatArray) -> tuple[CurvePoint, ...]:
    """Share escalated for a range of recalls: what the audit suggests, and what it can promise.

    Each point is a certificate of its own at delta; they do not hold all at once.
    """
    positives = np.sort(audit.base[audit.positives(lam)])
    points = []
    for recall in CURVE_RECALLS:
        k = int(bounds.wilks_index(len(positives), recall, delta))
        guess = positives[math.floor((1.0 - recall) * len(positives) + 1e-9)] if len(positives) else -math.inf
        points.append(
            CurvePoint(
                recall=recall,
                estimated_share=share_at(traffic, float(guess)),
                certified_share=share_at(traffic, float(positives[k]) if k >= 0 else -math.inf),
                certified=k >= 0,
            )
        )
    return tuple(points)


def _ids(config: CalibrationConfig) -> list[str] | None:
    return None if config.tuning is None else [str(value) for value in read_column(config.tuning, "video_id")]


def _traffic(config: CalibrationConfig, audit: Audit) -> FloatArray:
    if config.traffic is None:
        return audit.base
    column = [math.nan if value is None else value for value in read_column(config.traffic, "base")]
    return checked_scores(np.asarray(column), name=f"{config.traffic}: base", probability=True)


def _certificate(config: CalibrationConfig, file: ScoreFile, audit: Audit, traffic: FloatArray) -> Certificate:
    if config.collection_size is not None:
        if config.precision is not None or config.target_recall is None:
            raise UsageError("collection_size: expected a recall promise alone with it")
        return certify_finite(
            audit,
            lam=0.5 if config.lam is None else config.lam,
            target_recall=config.target_recall,
            delta=config.delta,
            size=config.collection_size,
            traffic=traffic,
        )
    return certify(
        file.base,
        file.large,
        file.labels,
        target_recall=config.target_recall,
        precision=config.precision,
        delta=config.delta,
        lam=config.lam,
        traffic=traffic,
        seed=config.seed,
    )


def calibrate(config: CalibrationConfig) -> Calibrated:
    """Certify what the configuration asks for."""
    file = read_score_file(config.scores)
    audit = read_audit(
        file.base,
        file.large,
        file.labels,
        ids=file.video_ids,
        tuning_ids=_ids(config),
        propensities=file.propensities,
    )
    traffic = _traffic(config, audit)
    certificate = _certificate(config, file, audit, traffic)
    flagged = Audit(base=audit.base, large=audit.large, labels=_complete(audit, certificate.lam))
    regions: tuple[RegionThreshold, ...] = ()
    if file.regions is not None and config.target_recall is not None and flagged.positives(certificate.lam).any():
        regions = region_thresholds(
            flagged, file.regions, lam=certificate.lam, target_recall=config.target_recall, delta=config.delta
        )
    curve = recall_cost_curve(flagged, lam=certificate.lam, delta=config.delta, traffic=traffic)
    return Calibrated(certificate=certificate, curve=curve, regions=regions)


def _complete(audit: Audit, lam: float) -> npt.NDArray[np.int8] | None:
    """The labels where every flagged item has one, else None: curve and regions then count large-model positives."""
    if audit.labels is None or (audit.labels[audit.large >= lam] < 0).any():
        return None
    return audit.labels
