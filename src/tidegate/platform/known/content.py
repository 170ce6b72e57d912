"""Known content first: every video is held against the banks before any model runs.

Enters: events with media locations. Leaves: the best match for each video that has one, and an error for each whose
media could not be looked at. Hashes of local files are kept until the file changes, so that an event about views does
not decode again. Banks are read again when their files change.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidegate.errors import ConfigError, TidegateError
from tidegate.media import DecoderPool
from tidegate.pipeline.item import require_regular_file
from tidegate.platform.contracts import KnownMatch
from tidegate.platform.event import VideoEvent
from tidegate.platform.fetch import Fetcher
from tidegate.platform.known.bank import Bank, read_bank
from tidegate.platform.known.hashing import HashingConfig, VideoHashes, hash_video
from tidegate.platform.known.matching import MatchConfig, find_matches
from tidegate.platform.location import LocationRules, check_location, resolve_local

__all__ = ["KnownBanks", "KnownBanksConfig"]

_FileKey = tuple[str, int, int, int]


@dataclass(frozen=True, kw_only=True)
class KnownBanksConfig:
    """Which banks, and how videos are held against them."""

    bank_folder: str
    """Every ``*.parquet`` file in it is a bank."""
    media_folder: str | None = None
    """Relative locations lie under this folder; None: only URLs are looked at."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts of URLs that may be reached though they are not public."""
    max_bits: int = 31
    """Hamming distance of two hashes that count as near, of 256 bits."""
    min_video_share: float = 0.3
    """Of the video's hashed frames that must be near the entry's."""
    min_entry_share: float = 0.3
    """Or: of the entry's hashed frames that must be near the video's."""
    interval_seconds: float = 1.0
    """Between two hashed frames of a video."""
    max_frames: int = 600
    """Hashed frames of one video."""
    mirrored: bool = True
    """Whether a mirrored copy is a copy; costs a second hash for each frame."""
    decoders: int = 1
    """Processes that decode."""
    remembered: int = 10_000
    """Local files whose hashes are kept."""
    reload_seconds: float = 10.0
    """How often the folder is looked at for changed banks."""

    def __post_init__(self) -> None:
        if self.decoders < 1 or self.remembered < 1 or self.reload_seconds < 0:
            raise ConfigError(f"expected decoders >= 1, remembered >= 1 and reload_seconds >= 0, got {self}")
        self.hashing, self.matching  # noqa: B018 - checked at birth

    @property
    def hashing(self) -> HashingConfig:
        return HashingConfig(interval_seconds=self.interval_seconds, max_frames=self.max_frames)

    @property
    def matching(self) -> MatchConfig:
        return MatchConfig(
            max_bits=self.max_bits, min_video_share=self.min_video_share, min_entry_share=self.min_entry_share
        )


class KnownBanks:
    """``KnownContent``; used from one thread."""

    def __init__(self, config: KnownBanksConfig) -> None:
        self._config = config
        self._folder = Path(config.bank_folder)
        self._rules = LocationRules(allow_hosts=config.allow_hosts)
        self._pool = DecoderPool(config.decoders)
        self._fetcher = Fetcher(self._rules)
        self._remembered: OrderedDict[_FileKey, VideoHashes] = OrderedDict()
        self._banks: dict[_FileKey, Bank] = {}
        self._looked_at = -float("inf")
        if not self._folder.is_dir():
            raise ConfigError(f"expected a folder of banks, got {self._folder}")
        self._reload()

    def match_many(self, events: Sequence[VideoEvent]) -> Mapping[str, KnownMatch | TidegateError]:
        """The best match by video id; ids without a match, or without media, are absent."""
        self._reload()
        found: dict[str, KnownMatch | TidegateError] = {}
        for event in events:
            if event.location is None or event.kind == "deleted":
                continue
            try:
                hashes = self._hashes(event.location)
            except TidegateError as error:
                found[event.video_id] = error
                continue
            matches = [
                match for bank in self._banks.values() for match in find_matches(hashes, bank, self._config.matching)
            ]
            if matches:
                found[event.video_id] = min(
                    matches, key=lambda match: (-match.matched_share, match.distance, not match.violates)
                )
        return found

    def _hashes(self, location: str) -> VideoHashes:
        with self._file(location) as (path, is_local):
            if not is_local:
                return hash_video(path, self._pool, self._config.hashing, mirrored=self._config.mirrored)
            key = _key(path)
            if key not in self._remembered:
                self._remembered[key] = hash_video(
                    path, self._pool, self._config.hashing, mirrored=self._config.mirrored
                )
            self._remembered.move_to_end(key)
            while len(self._remembered) > self._config.remembered:
                self._remembered.popitem(last=False)
            return self._remembered[key]

    @contextmanager
    def _file(self, location: str) -> Iterator[tuple[Path, bool]]:
        check_location(location, self._rules)
        if "://" in location:
            with self._fetcher.fetched(location) as path:
                yield path, False
            return
        if self._config.media_folder is None:
            raise ConfigError(f"expected a media_folder for the location {location!r}, got none")
        yield resolve_local(location, Path(self._config.media_folder)), True

    def _reload(self) -> None:
        if time.monotonic() - self._looked_at < self._config.reload_seconds:
            return
        self._looked_at = time.monotonic()
        paths = sorted(path for path in self._folder.glob("*.parquet") if not path.name.startswith("."))
        keys = {_key(path): path for path in paths}
        self._banks = {key: self._banks.get(key) or read_bank(path) for key, path in keys.items()}

    def close(self) -> None:
        """End the decoders."""
        self._pool.close()


def _key(path: Path) -> _FileKey:
    facts = require_regular_file(path)
    return os.fspath(path), facts.st_ino, facts.st_size, facts.st_mtime_ns
