"""Mechanisms: the ways in which a fault comes about on clips, none of which trains a model.

Enters: the site of a fault (the system without it, the slice, a severity, a seed). Leaves: a ``Planting``: what becomes
of any deployment of that system. Nothing here knows how answers are scored. Families are those of the worlds of
features: ``fitting`` where the shipped classifier was fitted on the counterpart, ``held_out`` where it was not.
Not planted: C3, C9 and C12 need another training, C10 a second policy that the models know.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tidegate.bench.diagnosis_clips.damage import (
    added_noise,
    blurred,
    coded,
    loud_sound,
    muffled,
    other_sound,
    silenced,
)
from tidegate.bench.diagnosis_clips.system import Deployed
from tidegate.bench.diagnosis_clips.treatment import Treatment
from tidegate.diagnosis.taxonomy import FailureClass
from tidegate.types import AudioChunk

__all__ = ["DECOYS", "MECHANISMS", "Mechanism", "Place", "Planting", "Site", "draw_place", "hit"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A slice: some values of one metadata column."""

    column: str
    values: tuple[str, ...]
    share: float
    """Share of the items that lie in it."""

    def rows(self, deployed: Deployed) -> Bools:
        """Mask of the items in it."""
        return np.isin(deployed.column(self.column), self.values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """Where and how hard a fault strikes."""

    clean: Deployed
    """The diagnosed items without the fault."""
    place: Place
    severity: int
    """1 to 3."""
    seed: int
    sounds: Sequence[AudioChunk]
    """What may be heard instead of a clip's own sound."""

    def level(self, *values: float) -> float:
        """The value of this severity."""
        return values[self.severity - 1]

    def key(self, name: str) -> str:
        """Name under which a treatment's scores are kept."""
        return f"{name}-{self.severity}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Planting:
    """What a fault does."""

    deploy: Callable[[Deployed], Deployed] = lambda deployed: deployed
    copies: tuple[Treatment, float] | None = None
    """How copies of diagnosed items in the training data look, and the share of the slice that has one."""


Mechanism = Callable[[Site], Planting]


def draw_place(deployed: Deployed, columns: Sequence[str], share: float, seed: int) -> Place:
    """A random slice of about the wanted share: values of a random column, added until it is reached."""
    rng = np.random.default_rng([seed, 11])
    column = columns[int(rng.integers(len(columns)))]
    values, counts = np.unique(deployed.column(column), return_counts=True)
    rates, reached = counts / counts.sum(), 0.0
    chosen: list[str] = []
    for place in rng.permutation(len(values)):
        if values[place] and (reached + rates[place] <= 1.25 * share or not chosen):
            chosen.append(str(values[place]))
            reached += float(rates[place])
        if reached >= 0.85 * share:
            break
    return Place(column=column, values=tuple(sorted(chosen)), share=reached)


def hit(site: Site, deployed: Deployed, chance: float = 1.0) -> Bools:
    """Items of the slice that it happens to, by a hash of their id."""
    names = [deployed.system.entries[row].video_id for row in deployed.rows]
    drawn = np.asarray([zlib.crc32(f"{site.seed}/{name}".encode()) / 2**32 for name in names])
    struck: Bools = site.place.rows(deployed) & (drawn < chance)
    return struck


def _treating(site: Site, treatment: Treatment, chance: float = 1.0) -> Planting:
    return Planting(deploy=lambda deployed: deployed.with_treatment(hit(site, deployed, chance), treatment))


def _truncated_files(site: Site) -> Planting:
    """Files whose upload broke off: half of their bytes are there."""
    treatment = Treatment(key="truncated", kept_bytes=0.5, note="truncated")
    return _treating(site, treatment, site.level(0.2, 0.4, 0.7))


def _missing_sound(site: Site) -> Planting:
    """The audio track got lost on the way, and the retriever wrote that down."""
    treatment = Treatment(key="missing-sound", damage=silenced, note="missing_audio")
    return _treating(site, treatment, site.level(0.4, 0.7, 1.0))


def _high_tau(site: Site) -> Planting:
    """The slice's tau is so high that a share of what it rightly flags stops at the base stage."""
    table = site.clean.table()
    wanted = site.place.rows(site.clean) & table.flagged & (table.labels == 1)
    base = table.base_scores
    if base is None or not wanted.any():
        return Planting()
    tau = float(np.quantile(base[wanted], site.level(0.2, 0.4, 0.65)))

    def deploy(deployed: Deployed) -> Deployed:
        inside = site.place.rows(deployed)
        return replace(deployed, taus=np.where(inside, np.maximum(deployed.taus, tau), deployed.taus))

    return Planting(deploy=deploy)


def _moved_threshold(site: Site) -> Planting:
    """The slice's threshold is moved up (misses) or down (false alarms)."""
    table, upwards = site.clean.table(), bool(np.random.default_rng(site.seed).random() < 0.5)
    right = site.place.rows(site.clean) & ~table.errors & (table.flagged == upwards)
    scores = table.scores[right]
    if not len(scores):
        return Planting()
    lost = site.level(0.15, 0.3, 0.5)
    threshold = float(np.quantile(scores, lost if upwards else 1 - lost))

    def deploy(deployed: Deployed) -> Deployed:
        return replace(deployed, thresholds=np.where(site.place.rows(deployed), threshold, deployed.thresholds))

    return Planting(deploy=deploy)


def _muffled_speech(site: Site) -> Planting:
    """Words are lost in the sound; what was said is known to whoever made the clip."""
    return _treating(site, Treatment(key=site.key("muffled"), damage=muffled(site.level(700.0, 450.0, 300.0))))


def _loud_sound(site: Site) -> Planting:
    """Another sound drowns the clip's own."""
    damage = loud_sound(site.sounds, site.level(5.0, 12.0, 20.0))
    return _treating(site, Treatment(key=site.key("loud-sound"), damage=damage))


def _swapped_sound(site: Site) -> Planting:
    """Another sound is in the place of the clip's own."""
    treatment = Treatment(key="swapped-sound", damage=other_sound(site.sounds))
    return _treating(site, treatment, site.level(0.5, 0.75, 1.0))


def _few_frames(site: Site) -> Planting:
    """Fewer frames are taken than the model was trained with."""
    frames = round(site.level(0.4, 0.25, 0.125) * site.clean.system.judge.num_frames)
    return _treating(site, Treatment(key=site.key("few-frames"), frames=max(1, frames)))


def _beginning_only(site: Site) -> Planting:
    """Frames are taken from the beginning alone."""
    return _treating(site, Treatment(key=site.key("beginning"), beginning=site.level(0.5, 0.35, 0.25)))


def _low_resolution(site: Site) -> Planting:
    """Frames are decoded at a fraction of the size at which the stage wants them."""
    return _treating(site, Treatment(key=site.key("low-resolution"), resolution=site.level(0.15, 0.09, 0.05)))


def _added_noise(site: Site) -> Planting:
    """Grain and hiss."""
    damage = added_noise(site.level(20.0, 40.0, 70.0), site.level(10.0, 3.0, -3.0))
    return _treating(site, Treatment(key=site.key("noise"), damage=damage))


def _blur(site: Site) -> Planting:
    """Out of focus."""
    return _treating(site, Treatment(key=site.key("blur"), damage=blurred(site.level(0.015, 0.03, 0.06))))


def _coarse_coding(site: Site) -> Planting:
    """Uploaded through a messenger: small, and at next to no bit rate."""
    return _treating(site, Treatment(key=site.key("coarse"), damage=coded(site.level(40.0, 45.0, 50.0), 0.5)))


def _flipped_labels(site: Site) -> Planting:
    """Labels of the slice are flipped at random."""
    chance = site.level(0.1, 0.2, 0.3)

    def deploy(deployed: Deployed) -> Deployed:
        wrong = hit(site, deployed, chance)
        return replace(deployed, labels=np.where(wrong, 1 - deployed.labels, deployed.labels))

    return Planting(deploy=deploy)


def _overlooked(site: Site) -> Planting:
    """Labellers of the slice overlook what breaks the policy."""
    chance = site.level(0.2, 0.4, 0.6)

    def deploy(deployed: Deployed) -> Deployed:
        return replace(deployed, labels=np.where(hit(site, deployed, chance), 0, deployed.labels))

    return Planting(deploy=deploy)


def _copies_in_training(site: Site) -> Planting:
    """Diagnosed items, encoded again, lie in the training data."""
    return Planting(copies=(Treatment(key="copy", damage=coded(26.0)), site.level(0.3, 0.5, 0.8)))


def _harmless_coding(site: Site) -> Planting:
    """Encoded again so well that nobody sees it."""
    return _treating(site, Treatment(key="fine-coding", damage=coded(18.0)))


def _harmless_notes(site: Site) -> Planting:
    """Serving wrote notes on a fifth of the slice that mean nothing."""
    return _treating(site, Treatment(note="slow_read"), 0.2)


_C = FailureClass
MECHANISMS: Mapping[str, tuple[FailureClass, str, Mechanism]] = {
    "truncated_files": (_C.SERVING, "held_out", _truncated_files),
    "missing_sound": (_C.SERVING, "held_out", _missing_sound),
    "high_tau": (_C.CASCADE_DROP, "fitting", _high_tau),
    "moved_threshold": (_C.THRESHOLD, "fitting", _moved_threshold),
    "muffled_speech": (_C.MODALITY_PERCEPTION, "held_out", _muffled_speech),
    "loud_sound": (_C.CROSS_MODAL, "held_out", _loud_sound),
    "swapped_sound": (_C.CROSS_MODAL, "held_out", _swapped_sound),
    "few_frames": (_C.TEMPORAL, "fitting", _few_frames),
    "beginning_only": (_C.TEMPORAL, "held_out", _beginning_only),
    "low_resolution": (_C.SPATIAL, "fitting", _low_resolution),
    "added_noise": (_C.CORRUPTION, "fitting", _added_noise),
    "blur": (_C.CORRUPTION, "held_out", _blur),
    "coarse_coding": (_C.CORRUPTION, "held_out", _coarse_coding),
    "flipped_labels": (_C.LABEL, "fitting", _flipped_labels),
    "overlooked": (_C.LABEL, "held_out", _overlooked),
    "copies_in_training": (_C.LEAKAGE, "fitting", _copies_in_training),
}  # fmt: skip
"""Mechanism → (class, family, what it does)."""
DECOYS: Mapping[str, Mechanism] = {"harmless_coding": _harmless_coding, "harmless_notes": _harmless_notes}
"""Changes that are no fault."""
