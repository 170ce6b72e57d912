"""Puts a scorer of this process together: a preset's stages, a decoder, the policy's routing.

Enters: settings and the context of the platform. Leaves: a ``CascadeScorer`` that closes its decoder with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidegate.errors import ConfigError
from tidegate.media import DecoderPool, Limits
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades, calibrated
from tidegate.platform.fetch import Fetcher
from tidegate.platform.scoring.cascade import CascadeScorer
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.local import LocalStage, MediaReader
from tidegate.platform.scoring.preset import PresetScorerSettings

__all__ = ["load_stages", "local_scorer"]


def load_stages(name_or_folder: str, *, device: str, batch_size: int) -> list[CalibratedStage]:
    """The stages of a preset or a folder, with their thresholds."""
    from tidegate.models import PRESETS, load_stage, preset

    if name_or_folder in PRESETS:
        chosen = preset(name_or_folder)
        stages = [chosen.load_stage(name, device=device, batch_size=batch_size) for name in ("base", "large")]
    else:
        folder = Path(name_or_folder)
        names = [name for name in ("base", "large") if (folder / name).is_dir()]
        if "base" not in names:
            known = ", ".join(sorted(PRESETS))
            raise ConfigError(f"expected a preset ({known}) or a folder with checkpoints in base, got {name_or_folder}")
        stages = [load_stage(folder / name, name=name, device=device, batch_size=batch_size) for name in names]
    return [calibrated(stage, stage.thresholds) for stage in stages]


class _OwningScorer(CascadeScorer):
    """Closes the decoder with it."""

    decoder: DecoderPool

    def close(self) -> None:
        super().close()
        self.decoder.close()


def local_scorer(
    stages: Sequence[CalibratedStage], settings: PresetScorerSettings, context: ScoringContext
) -> CascadeScorer:
    """A scorer over stages that are in memory."""
    decoder = DecoderPool(settings.decoders, Limits())
    fetcher = Fetcher(context.locations) if settings.fetch_urls else None
    reader = MediaReader(decoder, media_folder=context.media_folder, fetcher=fetcher)
    scorer = _OwningScorer(
        [LocalStage(entry.stage, reader, readers=settings.decoders) for entry in stages],
        RegionalCascades(stages, context.policy),
        defer=settings.defer and not context.later,
        chunk=4 * settings.batch_size,
    )
    scorer.decoder = decoder
    return scorer
