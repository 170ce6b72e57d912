"""Small neural networks over rows of numbers: fitted with torch, averaged over seeds, predicting with numpy alone.

Enters: rows, class numbers. Leaves: ``Networks``, each of one hidden layer. Rows are standardised and clipped, so that
an input that no fitting row was like does not run away with the answer.

Shape legend: R rows, F features, K classes, S networks (seeds), U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats

__all__ = ["NetworkConfig", "Networks", "fit_networks", "softmax"]

Ints = npt.NDArray[np.int64]
_REACH = 6.0
"""Standard deviations at which an input is clipped."""
_STORED = ("mean_F", "scale_F", "weight_SFU", "bias_SU", "weight_SUK", "bias_SK")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How the networks are trained."""

    units: int = 64
    """Hidden units."""
    seeds: int = 3
    """Networks, which differ by their seed; their log-probabilities are averaged."""
    epochs: int = 60
    """Passes over the rows."""
    batch_size: int = 64
    """Rows of a step."""
    peak_rate: float = 2e-3
    """Highest learning rate, of one cycle."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    input_dropout: float = 0.2
    """Share of the inputs that is left out in training."""
    hidden_dropout: float = 0.5
    """Share of the hidden units that is left out in training."""
    smoothing: float = 0.05
    """Share of a target that goes to all classes alike."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """Fitted networks."""

    mean_F: Floats
    scale_F: Floats
    weight_SFU: Floats
    bias_SU: Floats
    weight_SUK: Floats
    bias_SK: Floats

    def probabilities(self, rows_RF: Floats) -> Floats:
        """(R, K) probabilities: the geometric mean of the networks'."""
        inside_RF = _standardised(rows_RF, self.mean_F, self.scale_F)
        hidden_SRU = np.maximum(inside_RF @ self.weight_SFU + self.bias_SU[:, None], 0.0)
        logs_SRK = hidden_SRU @ self.weight_SUK + self.bias_SK[:, None]
        shares_SRK = logs_SRK - logs_SRK.max(axis=2, keepdims=True)
        shares_SRK = shares_SRK - np.log(np.exp(shares_SRK).sum(axis=2, keepdims=True))
        return softmax(shares_SRK.mean(axis=0))

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """Arrays to store, their names behind ``prefix``."""
        return {f"{prefix}.{name}": getattr(self, name).astype(np.float32) for name in _STORED}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Networks:
        """Inverse of ``arrays``."""
        return cls(**{name: arrays[f"{prefix}.{name}"].astype(np.float64) for name in _STORED})


def softmax(logs: Floats) -> Floats:
    """Shares along the last axis of (R, K)."""
    shifted = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return shares


def _standardised(rows_RF: Floats, mean_F: Floats, scale_F: Floats) -> Floats:
    inside: Floats = np.clip((rows_RF - mean_F) / scale_F, -_REACH, _REACH)
    return inside


def fit_networks(rows_RF: Floats, truth_R: Ints, num_classes: int, config: NetworkConfig, *, seed: int = 0) -> Networks:
    """Train ``config.seeds`` networks; classes weigh alike however many rows they have."""
    mean, scale = rows_RF.mean(axis=0), rows_RF.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    inside = _standardised(rows_RF, mean, scale)
    counts = np.bincount(truth_R, minlength=num_classes)
    weights = len(truth_R) / (np.maximum(counts, 1) * max(1, int((counts > 0).sum())))
    fitted = [_fit_one(inside, truth_R, weights, config, seed * 1000 + number) for number in range(config.seeds)]
    parts = {name: np.stack([one[name] for one in fitted]) for name in fitted[0]}
    return Networks(mean_F=mean, scale_F=scale, **parts)


def _fit_one(inside_RF: Floats, truth_R: Ints, weights_K: Floats, config: NetworkConfig, seed: int
             ) -> dict[str, Floats]:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows, truth = torch.from_numpy(inside_RF).float(), torch.from_numpy(truth_R)
        first, last = nn.Linear(rows.shape[1], config.units), nn.Linear(config.units, len(weights_K))
        net = nn.Sequential(nn.Dropout(config.input_dropout), first, nn.ReLU(), nn.Dropout(config.hidden_dropout), last)
        loss_of = nn.CrossEntropyLoss(torch.from_numpy(weights_K).float(), label_smoothing=config.smoothing)
        optimiser = torch.optim.AdamW(net.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay)
        batches = -(-len(rows) // config.batch_size)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.peak_rate, total_steps=config.epochs * batches)
        for _ in range(config.epochs):
            for batch in torch.randperm(len(rows)).split(config.batch_size):
                optimiser.zero_grad()
                loss_of(net(rows[batch]), truth[batch]).backward()
                optimiser.step()
                cycle.step()
    named = {"weight_SFU": first.weight.T, "bias_SU": first.bias, "weight_SUK": last.weight.T, "bias_SK": last.bias}
    return {name: value.detach().double().numpy() for name, value in named.items()}
