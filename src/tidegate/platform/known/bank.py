"""A bank of known content: the hashes of many videos, searched within a Hamming distance.

Enters: hashes of known videos under their ids. Leaves: all pairs of a query's and the bank's frames that are near.

File: Parquet, one row for each frame: ``entry`` (text), ``pts_seconds`` (float64), ``quality`` (uint8), ``pdq`` (32
bytes, the hash's 256 bits in order); the schema's metadata hold ``tidegate.bank``, a JSON object with ``version``,
``name``, ``violates``, ``issue`` and ``interval_seconds``. Written beside and renamed, so readers see whole files.

Search: XOR and popcount over 64-bit words. In a large bank only candidates are compared: two hashes at most 31 bits
apart have, of their sixteen 16-bit parts, at least one that differs in at most one bit (pigeonhole), so looking up 17
keys for each part finds all of them. Source: Norouzi et al., Fast Search in Hamming Space with Multi-Index Hashing.

Legend: N frames of the query, M frames of the bank, 4 words of 64 bits, 16 parts of 16 bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError, UsageError
from tidegate.platform.known.hashing import HASH_BYTES, VideoHashes, Words

__all__ = ["Bank", "Near", "read_bank", "write_bank"]

BANK_VERSION = 1
_MAX_INDEXED_BITS = 31
_SMALL_BANK = 20_000
_PARTS = 16
_PROBES = np.array([0, *(1 << bit for bit in range(16))], np.uint16)


@dataclass(frozen=True, eq=False)
class Near:
    """Pairs of frames within the distance."""

    query: npt.NDArray[np.intp]
    bank: npt.NDArray[np.intp]
    bits: npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Immutable; ``with_entry`` gives a larger one."""

    name: str
    violates: bool = True
    """False: content that is known and allowed."""
    issue: str = "icd"
    interval_seconds: float = 1.0
    """Between two hashed frames of an entry."""
    entries: tuple[str, ...] = ()
    words_M4: Words = field(default_factory=lambda: np.zeros((0, 4), np.uint64))
    entry_M: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Place of each frame's entry in ``entries``."""
    pts_seconds: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    quality: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.words_M4)

    def with_entry(self, entry: str, hashes: VideoHashes) -> Bank:
        """The bank with one more entry, or with this one replaced; an entry without a usable frame is refused."""
        if len(hashes) == 0:
            raise UsageError(f"expected at least one frame of sufficient quality for {entry!r}, got none")
        base = self.without((entry,)) if entry in self.entries else self
        return replace(
            base,
            entries=(*base.entries, entry),
            words_M4=np.concatenate([base.words_M4, hashes.words_N4]),
            entry_M=np.concatenate([base.entry_M, np.full(len(hashes), len(base.entries), np.int32)]),
            pts_seconds=np.concatenate([base.pts_seconds, hashes.pts_seconds]),
            quality=np.concatenate([base.quality, hashes.quality]),
        )

    def without(self, entries: Iterable[str]) -> Bank:
        """The bank without these entries."""
        gone = set(entries)
        kept = [number for number, entry in enumerate(self.entries) if entry not in gone]
        rows = np.isin(self.entry_M, kept)
        return replace(
            self, entries=tuple(self.entries[number] for number in kept), words_M4=self.words_M4[rows],
            entry_M=np.searchsorted(kept, self.entry_M[rows]).astype(np.int32), pts_seconds=self.pts_seconds[rows],
            quality=self.quality[rows],
        )

    @cached_property
    def frames_per_entry(self) -> npt.NDArray[np.intp]:
        """How many frames each entry has."""
        return np.bincount(self.entry_M, minlength=len(self.entries))

    def near(self, words_N4: Words, max_bits: int) -> Near:
        """All pairs at most ``max_bits`` apart."""
        indexed = len(self) > _SMALL_BANK and max_bits <= _MAX_INDEXED_BITS
        found = [self._near_one(words, max_bits, indexed) for words in words_N4]
        query = np.repeat(np.arange(len(found)), [len(rows) for rows, _ in found])
        rows = np.concatenate([rows for rows, _ in found]) if found else np.zeros(0, np.intp)
        bits = np.concatenate([bits for _, bits in found]) if found else np.zeros(0, np.intp)
        return Near(query, rows, bits)

    def _near_one(
        self, words: Words, max_bits: int, indexed: bool
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        candidates = self._candidates(words) if indexed else None
        compared = self.words_M4 if candidates is None else self.words_M4[candidates]
        bits = np.bitwise_count(compared ^ words).sum(axis=1, dtype=np.intp)
        near = np.flatnonzero(bits <= max_bits)
        return (near if candidates is None else candidates[near]), bits[near]

    @cached_property
    def _index(self) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]:
        """For each 16-bit part: rows by the part's value, and where each value begins."""
        index = []
        for part in self.words_M4.view(np.uint16).T:
            order = np.argsort(part, kind="stable").astype(np.int32)
            begins = np.searchsorted(part[order], np.arange(2**16 + 1, dtype=np.int64)).astype(np.int64)
            index.append((order, begins))
        return index

    def _candidates(self, words: Words) -> npt.NDArray[np.intp]:
        parts = words.view(np.uint16)
        found = []
        for (order, begins), part in zip(self._index, parts, strict=True):
            keys = (part ^ _PROBES).astype(np.int64)
            for begin, end in zip(begins[keys], begins[keys + 1], strict=True):
                if end > begin:
                    found.append(order[begin:end])
        return np.unique(np.concatenate(found)).astype(np.intp) if found else np.zeros(0, np.intp)


def write_bank(bank: Bank, path: Path) -> None:
    """Write the bank's file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = {
        "version": BANK_VERSION, "name": bank.name, "violates": bank.violates, "issue": bank.issue,
        "interval_seconds": bank.interval_seconds,
    }
    hashes = np.ascontiguousarray(bank.words_M4).tobytes()
    pdq = pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASH_BYTES), len(bank), [None, pa.py_buffer(hashes)])
    entry = pa.DictionaryArray.from_arrays(pa.array(bank.entry_M), pa.array(bank.entries, pa.string()))
    table = pa.table({
        "entry": entry.cast(pa.string()), "pts_seconds": pa.array(bank.pts_seconds), "quality": pa.array(bank.quality),
        "pdq": pdq,
    }).replace_schema_metadata({"tidegate.bank": msgspec.json.encode(facts)})
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, draft, compression="zstd")
        os.replace(draft, path)
    except OSError as error:
        raise UsageError(f"expected a place to write the bank, got {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def read_bank(path: Path) -> Bank:
    """Read a bank's file; what is no bank is a ``ConfigError``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["entry", "pts_seconds", "quality", "pdq"])
        facts = msgspec.json.decode((table.schema.metadata or {}).get(b"tidegate.bank", b""))
    except (OSError, KeyError, pa.ArrowException, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: expected a bank of known content, got {error}") from error
    if facts.get("version") != BANK_VERSION or table.schema.field("pdq").type != pa.binary(HASH_BYTES):
        raise ConfigError(f"{path}: expected a bank of version {BANK_VERSION} with 32-byte hashes, got {facts}")
    entry = table["entry"].combine_chunks().dictionary_encode()
    raw = b"".join(table["pdq"].to_pylist())
    return Bank(
        name=facts["name"], violates=facts["violates"], issue=facts["issue"],
        interval_seconds=facts["interval_seconds"], entries=tuple(entry.dictionary.to_pylist()),
        words_M4=np.frombuffer(raw, np.uint64).reshape(-1, 4), entry_M=entry.indices.to_numpy().astype(np.int32),
        pts_seconds=table["pts_seconds"].to_numpy(), quality=table["quality"].to_numpy(),
    )
