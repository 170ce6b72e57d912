"""A small world for tests: items with evidence in channels, a model that adds it up, and faults with a known cause."""

from __future__ import annotations

import dataclasses

import numpy as np

from tidegate.diagnosis import PROBES, ProbeTable

MODALITIES = ("audio", "vision", "text")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@dataclasses.dataclass
class World:
    """Scores any item under any probe; ``fault`` names the class that is planted on the ``hit`` items."""

    n: int = 1200
    fault: str = "none"
    share: float = 0.3
    severity: float = 1.0
    seed: int = 0
    cascade: bool = False
    prevalence: float = 0.4

    def __post_init__(self):
        rng = self.rng = np.random.default_rng([self.seed, 7])
        n = self.n
        self.label = (rng.random(n) < self.prevalence).astype(np.int64)
        self.channel = rng.integers(0, 3, n)
        self.evidence = rng.normal(0, 0.5, (n, 3))
        strong = np.abs(rng.normal(3.2, 1.0, n))
        weak = np.where(rng.random(n) < 0.3, np.abs(rng.normal(0.6, 0.6, n)), 0.0)
        self.evidence[np.arange(n), self.channel] += np.where(self.label == 1, strong, weak)
        self.item_noise = rng.normal(0, 0.9, n)
        self.language = rng.choice(["en", "es", "hi", "ar", "pt"], n, p=[0.35, 0.25, 0.2, 0.1, 0.1])
        self.clause = np.where(self.label == 1, rng.choice(["weapons", "threats", "goods"], n), "")
        self.sources = np.array([f"s{v}" for v in rng.integers(0, n // 3, n)])
        self.hit = self._hit(rng)
        self.base = 0.5 * self.evidence.sum(1) - 0.6 + rng.normal(0, 1.0, n)
        self.jitter = {name: rng.normal(0, 0.2, n) for name in PROBES}
        self.peer = self.evidence.sum(1) * 1.2 - 1.8 + rng.normal(0, 1.2, n)

    def _hit(self, rng):
        hit = rng.random(self.n) < self.share
        if self.fault == "C9":
            hit = self.language == "hi"
        if self.fault == "C10":
            hit = self.clause == "threats"
        if self.fault in ("C3", "C4", "C5", "C6", "C7", "C8", "C9", "C12"):
            hit = hit & (self.label == 1)
        wanted = {"C3": 0, "C4": 0, "C6": 1, "C7": 1}
        if self.fault in wanted:
            hit = hit & (self.channel == wanted[self.fault])
        return hit

    def logit(self, probe=None):
        p, hit, s, f = self.evidence.copy(), self.hit, self.severity, self.fault
        rows = np.arange(self.n)
        lost = {"C3": probe not in ("audio_only", "vision_only", "text_only"),
                "C4": probe not in ("transcript_gold", "transcript_recognised", "translated_gold"),
                "C6": probe not in ("frames_more", "frames_window"), "C7": probe not in ("resolution_up", "crops"),
                "C8": probe != "clean", "C9": probe not in ("translated_gold", "translated_recognised"),
                "C12": True, "M2": probe != "retry"}
        if lost.get(f):
            p[hit, self.channel[hit]] *= 1 - 0.9 * s
        bias = np.zeros(self.n)
        if f == "C5" and probe not in ("audio_swap", "audio_mute", "vision_only", "text_only"):
            bias[hit] -= 3.5 * s
        if f == "C10" and probe != "policy_other":
            bias[hit] -= 4.0 * s
        donor = np.roll(rows, 17)
        for m, name in enumerate(MODALITIES):
            if probe in (f"{name}_swap", f"{name}_mute", f"{name}_drop"):
                p[:, m] = self.evidence[donor, m] * (self.label[donor] == 0) if "swap" in probe else 0.0
            if probe and probe.endswith("_only") and probe != f"{name}_only":
                p[:, m] = 0.0
        if probe in ("noise_mild", "noise_strong"):
            p *= 0.8 if probe == "noise_mild" else 0.4
        jitter = 0.0 if probe is None else self.jitter[probe]
        return p.sum(1) * 1.5 - 2.2 + self.item_noise + bias + jitter

    def base_logit(self):
        return self.base - (3.0 * self.severity * self.hit if self.fault == "C1" else 0.0)

    def scores(self, probe=None):
        full = self.logit(probe)
        if self.cascade and probe != "force_full":
            full = np.where(self.base_logit() >= -1.0, full, np.minimum(self.base_logit() - 1.5, -0.5))
        return sigmoid(full)

    def table(self):
        label = self.label.copy()
        if self.fault == "C11":
            flip = self.hit & (self.rng.random(self.n) < 0.4)
            label = np.where(flip, 1 - label, label)
            self.hit = flip
        thresholds = np.full(self.n, 0.5)
        if self.fault == "C2":
            self.hit = self.language == "es"
            thresholds = np.where(self.hit, sigmoid(2.2 * self.severity), 0.5)
        notes = np.full(self.n, "", dtype="<U20")
        scores = self.scores()
        if self.fault == "M2":
            notes = np.where(self.hit, "truncated", notes)
        rng = self.rng
        features = {
            "peer_score": sigmoid(self.peer),
            "knn_distance": np.abs(rng.normal(1, 0.2, self.n)) + 1.2 * (self.hit & (self.fault == "C12")),
            "noise_level": np.abs(rng.normal(0, 1, self.n)) + 2.5 * (self.hit & (self.fault == "C8")),
            "duplicate_similarity": np.where(self.hit & (self.fault == "M1"), 0.99, rng.uniform(0.2, 0.7, self.n)),
            "perceived": (self.evidence.max(1) > 1.5) * np.where(
                self.hit & np.isin(self.fault, ["C4", "C6", "C7", "C8", "C9", "C12"]), 0.0, 1.0) * 0.9,
        }
        return ProbeTable(
            ids=np.array([f"v{i}" for i in range(self.n)]), labels=label, scores=scores, thresholds=thresholds,
            sources=self.sources, slices={"language": self.language, "clause": self.clause}, features=features,
            notes=notes, base_scores=sigmoid(self.base_logit()) if self.cascade else None,
            escalated=self.base_logit() >= -1.0 if self.cascade else None,
        )


class WorldScorer:
    """A ``Scorer`` over a world; counts its calls."""

    def __init__(self, world, without=()):
        self.world, self.calls = world, 0
        self.without = frozenset(without) | ({"force_full"} if not world.cascade else set())

    @property
    def probes(self):
        return frozenset(PROBES) - self.without

    combines = False

    def score(self, rows, probe):
        self.calls += len(rows)
        return self.world.scores(probe)[rows]
