"""Swapping: a training clip gets the audio, the frames or the texts of another clip, and keeps its label.

Enters: training examples with their manifest entries. Leaves: for each example what it may take, and from whom. Why: a
model that lets one modality talk it out of what another shows learns that the first may say anything. The label must
stay true, so

* only harmless clips give; where the synthetic truth is known, none that holds half of a conjunction (an offer in
  words, or something for sale), because two harmless halves make one violation;
* harmless clips may take any modality;
* violating clips may take only a modality that holds none of their evidence, which nobody but the manifest's ``truth``
  can say; without it, or with several issues, they are left as they are.

Auxiliary targets about a modality become the giver's. A giver speaks the same language where there is one, and comes
from another source. Without truth only harmless clips are ever swapped, so that parts that do not belong together
become a sign of harmlessness: ``Swaps.told`` says how many of each label may take, and the run prints it.

Shape legend: N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.corpus.synthetic.sprites import FOR_SALE
from tidegate.errors import ConfigError
from tidegate.types import Modality

__all__ = ["SwapConfig", "Swaps", "swaps_of", "with_part"]

_MODALITIES: tuple[Modality, ...] = ("audio", "vision", "text")
_FIELDS: Mapping[Modality, tuple[str, ...]] = {
    "audio": ("mel_MF", "num_mel_frames", "audio_D"),
    "vision": ("frames_THWC", "patches_TPD"),
    "text": ("token_ids",),
}
"""Fields of an item, before or after the towers, that hold a modality."""
_TRIES = 8


@dataclass(frozen=True, kw_only=True)
class SwapConfig:
    """How often a training clip gets a modality of another harmless one. All zeros: never."""

    audio: float = 0.0
    """Probability of another clip's audio."""
    vision: float = 0.0
    """Probability of another clip's frames."""
    text: float = 0.0
    """Probability of another clip's texts."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"expected a probability in [0, 1] of swapping {name}, got {value}")

    @property
    def wanted(self) -> tuple[Modality, ...]:
        """Modalities that are swapped at all."""
        return tuple(name for name in _MODALITIES if getattr(self, name) > 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Swaps:
    """Who may take what of whom."""

    config: SwapConfig
    takers: Mapping[Modality, npt.NDArray[np.bool_]]
    """``(N,)`` for each wanted modality."""
    givers: Mapping[str, npt.NDArray[np.int64]]
    """Numbers of examples that may give, by language; under ``""`` all of them."""
    languages: Sequence[str]
    """Of each example."""
    sources: Sequence[str]
    """Of each example."""
    tasks: Mapping[str, Modality] = field(default_factory=dict)
    """Auxiliary tasks that are about one modality."""
    told: str = ""
    """How many may take, in words."""

    def drawn(self, number: int, rng: np.random.Generator) -> dict[Modality, int]:
        """What an example takes this time, and from which other example."""
        taken: dict[Modality, int] = {}
        for name in self.config.wanted:
            wanted = rng.random() < getattr(self.config, name)
            if wanted and self.takers[name][number] and (giver := self._giver(number, rng)) is not None:
                taken[name] = giver
        return taken

    def _giver(self, number: int, rng: np.random.Generator) -> int | None:
        for group in (self.givers.get(self.languages[number], self.givers[""]), self.givers[""]):
            for _ in range(_TRIES):
                giver = int(rng.choice(group))
                if self.sources[giver] != self.sources[number]:
                    return giver
        return None


def with_part(item: Any, giver: Any, modality: Modality) -> Any:
    """The item with one modality of ``giver``; as it is where one of the two has none. Nothing is written to."""
    names = [name for name in _FIELDS[modality] if hasattr(item, name)]
    if any(_is_empty(getattr(one, name)) for one in (item, giver) for name in names):
        return item
    return dataclasses.replace(item, **{name: getattr(giver, name) for name in names})


def _is_empty(part: Any) -> bool:
    return part is None or (isinstance(part, np.ndarray) and not len(part))


def swaps_of(
    entries: Sequence[Entry], issues: Sequence[str], config: SwapConfig, tasks: Mapping[str, Modality]
) -> Swaps | None:
    """Of training examples, in their order; None if nothing is to be swapped."""
    if not config.wanted:
        return None
    harmless = [_is_harmless(entry, issues) for entry in entries]
    giving = [number for number, entry in enumerate(entries) if harmless[number] and not _is_half(entry)]
    sources = [entry.source_id or entry.video_id for entry in entries]
    if len({sources[number] for number in giving}) < 2:
        raise ConfigError(f"expected harmless training videos of two sources that can give, found {len(giving)} videos")
    languages = [entry.language or "" for entry in entries]
    groups = {code: np.asarray([n for n in giving if languages[n] == code]) for code in {languages[n] for n in giving}}
    takers = {
        name: np.asarray([mild or _is_free(entry, issues, name) for mild, entry in zip(harmless, entries, strict=True)])
        for name in config.wanted
    }
    return Swaps(
        config=config, takers=takers, givers={**groups, "": np.asarray(giving)}, languages=languages, sources=sources,
        tasks=tasks, told=_told(takers, np.asarray(harmless), len(giving)),
    )  # fmt: skip


def _is_harmless(entry: Entry, issues: Sequence[str]) -> bool:
    return all(entry.labels.get(issue) == 0 for issue in issues)


def _is_half(entry: Entry) -> bool:
    """Whether it holds an offer in words or something for sale: harmless alone, a violation together."""
    words = (entry.truth.get(name) for name in ("title", "sticker", "speech"))
    offers = any(isinstance(said, Mapping) and said.get("theme") == "offer" for said in words)
    return offers or bool(set(entry.truth.get("things", ())) & set(FOR_SALE))


def _is_free(entry: Entry, issues: Sequence[str], modality: Modality) -> bool:
    """Whether a violating clip's whole evidence is known to lie outside a modality."""
    evidence = entry.truth.get("modalities") or ()
    return len(issues) == 1 and entry.labels.get(issues[0]) == 1 and bool(evidence) and modality not in evidence


def _told(takers: Mapping[Modality, npt.NDArray[np.bool_]], harmless: npt.NDArray[np.bool_], giving: int) -> str:
    parts = [f"{name} {int((may & harmless).sum())} and {int((may & ~harmless).sum())}" for name, may in takers.items()]
    listed = ", ".join(parts)
    return f"parts of {giving} harmless training videos are swapped in; harmless and violating takers: {listed}"
