"""Known content: banks of perceptual hashes that are asked before any model runs.

``KINDS`` is what a configuration file can name. Decoders start and ``pdqhash`` is imported with the first video.
"""

from __future__ import annotations

from tidegate.platform.contracts import Backend
from tidegate.platform.known.content import KnownBanks, KnownBanksConfig

__all__ = ["KINDS"]

KINDS = {
    "banks": Backend(settings=KnownBanksConfig, open=KnownBanks),
}
