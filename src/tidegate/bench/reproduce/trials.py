"""Which trainings a table needs, which of its rows each gives, and which pairs of rows are compared.

A trial is one training, named by what differs from the usual; rows of several tables share trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidegate.models.configs import Fusion
from tidegate.types import Modality

__all__ = ["FULL_BASE", "FULL_MLLM", "LOW_PREVALENCE", "PAIRS", "ROWS", "CascadeRow", "Stage", "Trial", "trials_of"]

Stage = Literal["base", "large"]

_ALL: tuple[Modality, ...] = ("vision", "audio", "text")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, the seed apart."""

    stage: Stage
    modalities: tuple[Modality, ...] = _ALL
    fusion: Fusion = "late"
    """Of the large model with audio."""
    rank: int = 32
    """LoRA's rank on the language model of the large one; 0: the head alone."""
    alpha: int = 64
    share: float = 1.0
    """Of the training split, in whole sources."""
    small_audio: bool = False
    """Whether the large model's audio tower is the smaller one."""
    rate: float | None = None
    """Peak learning rate; None: that of the stage's schedule."""

    @property
    def key(self) -> str:
        """A file name that tells trials apart."""
        parts = [self.stage, "+".join(self.modalities), f"{round(100 * self.share)}pc"]
        if self.stage == "large":
            parts += [self.fusion if "audio" in self.modalities else "none", f"r{self.rank}a{self.alpha}"]
        return "-".join([*parts, *(["small"] if self.small_audio else [])])


@dataclass(frozen=True, kw_only=True)
class CascadeRow:
    """A cascade of two trials."""

    base: Trial
    large: Trial
    p_base_percent: int | None
    """Precision of the base at its threshold; None: the large model is asked about everything."""
    prevalence: float | None
    """Prevalence to which precisions are transported; None: that of the data."""


FULL_MLLM = Trial(stage="large")
FULL_BASE = Trial(stage="base")
_QUIET_MLLM = Trial(stage="large", modalities=("vision", "text"))
_SEEING_BASE = Trial(stage="base", modalities=("vision",))
_SIGLIP = Trial(stage="base", modalities=("vision", "text"))
LOW_PREVALENCE = 0.05
"""At which the rows of the task ``icd`` in table 2 are computed: P_base 10 to 30 means nothing at 40 %."""


def _cascade(p_base: int | None, prevalence: float | None) -> CascadeRow:
    return CascadeRow(base=FULL_BASE, large=FULL_MLLM, p_base_percent=p_base, prevalence=prevalence)


def _large(rank: int, alpha: int) -> Trial:
    return Trial(stage="large", rank=rank, alpha=alpha)


_STAGES: tuple[tuple[str, Stage], ...] = (("Base", "base"), ("MLLM", "large"))

ROWS: dict[int, dict[tuple[str, str], Trial | CascadeRow]] = {
    1: {
        ("icd", "Base"): _SEEING_BASE,
        ("icd", "SigLIP"): _SIGLIP,
        ("icd", "MLLM (w/o audio)"): _QUIET_MLLM,
        ("ucc", "Base"): FULL_BASE,
        ("ucc", "SigLIP"): _SIGLIP,
        ("ucc", "MLLM"): FULL_MLLM,
    },
    2: {
        ("icd", "MLLM alone"): _cascade(None, LOW_PREVALENCE),
        **{("icd", f"P_base {p}"): _cascade(p, LOW_PREVALENCE) for p in (10, 20, 30)},
        ("ucc", "MLLM alone"): _cascade(None, None),
        **{("ucc", f"P_base {p}"): _cascade(p, None) for p in (50, 60, 70)},
    },
    3: {("ucc", "Early fusion"): Trial(stage="large", fusion="early"), ("ucc", "Late fusion"): FULL_MLLM},
    4: {
        ("ucc", f"{rank}, {alpha}"): _large(rank, alpha)
        for rank, alpha in ((0, 0), (2, 4), (8, 16), (32, 64), (128, 256), (512, 1024))
    },
    5: {
        ("ucc", f"{percent}% {name}"): Trial(stage=stage, share=percent / 100)
        for percent in (20, 40, 60, 100)
        for name, stage in _STAGES
    },
    6: {
        ("ucc", "MLLM"): FULL_MLLM,
        ("ucc", "(a) w/o audio"): _QUIET_MLLM,
        ("ucc", "(b) w/o video text"): Trial(stage="large", modalities=("vision", "audio")),
        ("ucc", "(c) smaller audio tower"): Trial(stage="large", small_audio=True),
    },
}  # type: ignore[dict-item]
"""Table → (task of the paper's row, its name) → what gives our figures."""

PAIRS: dict[int, tuple[tuple[str, str, str], ...]] = {
    1: (
        ("icd", "SigLIP", "Base"), ("icd", "MLLM (w/o audio)", "Base"), ("icd", "MLLM (w/o audio)", "SigLIP"),
        ("ucc", "Base", "SigLIP"), ("ucc", "MLLM", "Base"), ("ucc", "MLLM", "SigLIP"),
    ),
    2: (
        ("icd", "MLLM alone", "P_base 10"), ("icd", "P_base 10", "P_base 20"), ("icd", "P_base 20", "P_base 30"),
        ("ucc", "MLLM alone", "P_base 50"), ("ucc", "P_base 50", "P_base 60"), ("ucc", "P_base 60", "P_base 70"),
    ),
    3: (("ucc", "Late fusion", "Early fusion"),),
    4: tuple(("ucc", "32, 64", other) for other in ("0, 0", "2, 4", "8, 16", "128, 256", "512, 1024")),
    5: (
        *(("ucc", f"{percent}% MLLM", f"{percent}% Base") for percent in (20, 40, 60, 100)),
        *(
            ("ucc", f"{more}% {name}", f"{less}% {name}")
            for name in ("Base", "MLLM")
            for less, more in ((20, 40), (40, 60), (60, 100))
        ),
        ("ucc", "20% MLLM", "100% Base"),
    ),
    6: tuple(("ucc", "MLLM", other) for other in ("(a) w/o audio", "(b) w/o video text", "(c) smaller audio tower")),
}  # fmt: skip
"""Table → (task, row, other row) whose ordering is compared with the paper's."""


def trials_of(table: int) -> tuple[Trial, ...]:
    """The trainings that a table needs, each once."""
    needed: dict[Trial, None] = {}
    for row in ROWS[table].values():
        for trial in (row,) if isinstance(row, Trial) else (row.base, row.large):
            needed[trial] = None
    return tuple(needed)
