"""Manifests: the list of videos of a data set, with labels, regions, sources and splits, in Parquet or CSV.

Enters: a file. Leaves: a ``Manifest`` of checked ``Entry`` values, or a ``ManifestError`` that names file, line and
column. Columns: ``video_id``, ``path`` (relative to the manifest's folder, or absolute), ``label_<issue>`` (0, 1 or
empty), ``region``, ``language``, ``views``, ``creator``, ``source_id``, ``split``, ``title``, ``texts`` (JSON list of
{kind, text, language}), ``truth`` (JSON; what a synthetic video really holds, never shown to a model). Only
``video_id`` and ``path`` must be there. Why sources: clips cut from one source on both sides of a split flatter every
figure, so that is an error and not a habit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from tidegate.errors import ManifestError
from tidegate.types import TextSpan, VideoContext

__all__ = ["SPLITS", "Entry", "Manifest", "Split", "read_manifest", "write_manifest"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_LABEL = "label_"
_COLUMNS = (
    "video_id",
    "path",
    "region",
    "language",
    "views",
    "creator",
    "source_id",
    "split",
    "title",
    "texts",
    "truth",
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of a data set."""

    video_id: str
    """Unique in its manifest."""
    path: Path
    """Absolute."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Issue to 0 or 1; an issue that is not there is unlabelled."""
    region: str | None = None
    """ISO 3166-1 alpha-2, upper case."""
    language: str | None = None
    """ISO 639-1."""
    views: int | None = None
    creator: str | None = None
    source_id: str | None = None
    """Videos of one source never lie on two sides of a split; None: a source of its own."""
    split: Split | None = None
    texts: tuple[TextSpan, ...] = ()
    """Texts that the platform knows: title, in-app stickers."""
    truth: Mapping[str, Any] = field(default_factory=dict)
    """What a synthetic video really holds; for measuring, never for models."""

    @property
    def context(self) -> VideoContext:
        """What the platform knows besides the content."""
        return VideoContext(region=self.region, language=self.language, views=self.views, creator=self.creator)

    @property
    def title(self) -> str | None:
        """The first text of kind ``title``."""
        return next((text.text for text in self.texts if text.kind == "title"), None)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The videos of a data set, in order. Iterates and indexes like a sequence."""

    entries: tuple[Entry, ...]
    path: Path | None = None
    """The file it was read from or written to."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Entry:
        return self.entries[index]

    @property
    def issues(self) -> tuple[str, ...]:
        """Issues that any entry is labelled for."""
        return tuple(sorted({issue for entry in self.entries for issue in entry.labels}))

    def split(self, name: Split) -> Manifest:
        """The entries of one split."""
        if name not in SPLITS:
            raise ManifestError(f"expected a split among {SPLITS}, got {name!r}")
        return Manifest(entries=tuple(entry for entry in self.entries if entry.split == name), path=self.path)

    def labelled(self, issue: str) -> Manifest:
        """The entries that have a label for ``issue``."""
        return Manifest(entries=tuple(entry for entry in self.entries if issue in entry.labels), path=self.path)

    def missing_files(self) -> tuple[Entry, ...]:
        """Entries whose file is not there."""
        return tuple(entry for entry in self.entries if not entry.path.is_file())

    def check_files(self) -> None:
        """``ManifestError`` naming the first videos that are not there."""
        missing = self.missing_files()
        if missing:
            some = ", ".join(f"{self._line(entry)}{entry.video_id} at {entry.path}" for entry in missing[:3])
            raise ManifestError(f"{self._name}: {len(missing)} of {len(self)} videos are not there: {some}")

    def leaking_sources(self) -> tuple[str, ...]:
        """Sources with videos in more than one split."""
        splits: dict[str, set[str]] = {}
        for entry in self.entries:
            if entry.source_id is not None and entry.split is not None:
                splits.setdefault(entry.source_id, set()).add(entry.split)
        return tuple(sorted(source for source, names in splits.items() if len(names) > 1))

    def check_sources(self) -> None:
        """``ManifestError`` naming sources that lie on both sides of a split."""
        leaking = self.leaking_sources()
        if leaking:
            some = ", ".join(f"{source} ({self._sides(source)})" for source in leaking[:3])
            raise ManifestError(
                f"{self._name}: column source_id: {len(leaking)} sources have videos in more than one split: "
                f"{some} (allow_leaks=True reads it all the same)"
            )

    def _line(self, entry: Entry) -> str:
        """``line 7: `` of an entry, where the manifest is a file."""
        if self.path is None:
            return ""
        return f"line {self.entries.index(entry) + (2 if self.path.suffix == '.csv' else 1)}: "

    def _sides(self, source: str) -> str:
        """The first video of a source in each of its splits."""
        first: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.source_id == source and entry.split is not None:
                first.setdefault(entry.split, entry)
        return ", ".join(f"{self._line(entry)}{entry.video_id} in {split}" for split, entry in first.items())

    @property
    def _name(self) -> str:
        return "manifest" if self.path is None else str(self.path)


@dataclass(frozen=True)
class _Row:
    """One line under checking; every complaint names file, line and column."""

    file: Path
    line: int
    values: Mapping[str, Any]

    def wrong(self, column: str, expected: str) -> ManifestError:
        return ManifestError(
            f"{self.file}: line {self.line}: column {column}: expected {expected}, got {self.values.get(column)!r}"
        )

    def text(self, column: str) -> str | None:
        value = self.values.get(column)
        return None if value is None or value == "" else str(value)

    def required(self, column: str) -> str:
        value = self.text(column)
        if value is None:
            raise self.wrong(column, "a value")
        return value

    def integer(self, column: str, low: int, high: int | None = None) -> int | None:
        value = self.text(column)
        try:
            number = None if value is None else int(value)
        except ValueError:
            raise self.wrong(column, "a whole number or nothing") from None
        if number is not None and (number < low or (high is not None and number > high)):
            raise self.wrong(column, f"{low} or {high}, or nothing" if high is not None else f"at least {low}")
        return number

    def json(self, column: str, kind: type) -> Any:
        value = self.text(column)
        try:
            decoded = kind() if value is None else json.loads(value)
        except json.JSONDecodeError:
            raise self.wrong(column, f"a JSON {kind.__name__}") from None
        if not isinstance(decoded, kind):
            raise self.wrong(column, f"a JSON {kind.__name__}")
        return decoded


def read_manifest(path: str | os.PathLike[str], *, allow_leaks: bool = False) -> Manifest:
    """Read and check a manifest; the file's ending says which form, ``.parquet`` or ``.csv``."""
    file = Path(path)
    table = _table(file)
    missing = {"video_id", "path"} - set(table.columns)
    if missing:
        raise ManifestError(f"{file}: line 1: missing column {', '.join(sorted(missing))}")
    unknown = [name for name in table.columns if name not in _COLUMNS and not name.startswith(_LABEL)]
    if unknown:
        raise ManifestError(
            f"{file}: line 1: unknown column {', '.join(unknown)}; expected {', '.join(_COLUMNS)}, label_<issue>"
        )
    first = 2 if file.suffix == ".csv" else 1
    rows = [_Row(file, line, values) for line, values in enumerate(table.iter_rows(named=True), start=first)]
    entries = tuple(_entry(row) for row in rows)
    _expect_unique(rows)
    manifest = Manifest(entries=entries, path=file)
    if not allow_leaks:
        manifest.check_sources()
    return manifest


def _table(file: Path) -> pl.DataFrame:
    if file.suffix not in (".parquet", ".csv"):
        raise ManifestError(f"{file}: expected a manifest in .parquet or .csv, got {file.suffix or 'no ending'!r}")
    if not file.is_file():
        raise ManifestError(f"{file}: there is no such manifest")
    try:
        return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: not readable as {file.suffix[1:]}: {error}") from error


def _expect_unique(rows: Sequence[_Row]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        video_id = row.required("video_id")
        if video_id in seen:
            raise row.wrong("video_id", f"unique ids (line {seen[video_id]} has it too)")
        seen[video_id] = row.line


def _entry(row: _Row) -> Entry:
    labels = {name[len(_LABEL) :]: row.integer(name, 0, 1) for name in row.values if name.startswith(_LABEL)}
    region, split = row.text("region"), row.text("split")
    if region is not None and not (len(region) == 2 and region.isascii() and region.isupper()):
        raise row.wrong("region", "an ISO 3166-1 alpha-2 code in upper case")
    if split is not None and split not in SPLITS:
        raise row.wrong("split", f"one of {', '.join(SPLITS)}, or nothing")
    return Entry(
        video_id=row.required("video_id"),
        path=_path(row),
        labels={issue: label for issue, label in labels.items() if label is not None},
        region=region,
        language=row.text("language"),
        views=row.integer("views", 0),
        creator=row.text("creator"),
        source_id=row.text("source_id"),
        split=split,  # type: ignore[arg-type]
        texts=_texts(row),
        truth=row.json("truth", dict),
    )


def _path(row: _Row) -> Path:
    path = Path(row.required("path"))
    if "\0" in str(path):
        raise row.wrong("path", "a path")
    if not path.is_absolute() and ".." in path.parts:
        raise row.wrong("path", "a path inside the manifest's folder, or an absolute one")
    return path if path.is_absolute() else row.file.absolute().parent / path


def _texts(row: _Row) -> tuple[TextSpan, ...]:
    title = row.text("title")
    spans = [] if title is None else [TextSpan("title", title, row.text("language"))]
    for item in row.json("texts", list):
        if not isinstance(item, dict) or not {"kind", "text"} <= set(item) <= {"kind", "text", "language"}:
            raise row.wrong("texts", "a JSON list of {kind, text, language}")
        try:
            span = TextSpan(item["kind"], str(item["text"]), item.get("language"))
        except ValueError:
            raise row.wrong("texts", "kinds among title, sticker, ocr, transcript, chat") from None
        if span.kind != "title" or title is None:
            spans.append(span)
    return tuple(spans)


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> Manifest:
    """Write to ``.parquet`` or ``.csv``, complete or not at all; paths under its folder become relative."""
    file = Path(path)
    if file.suffix not in (".parquet", ".csv"):
        raise ManifestError(f"{file}: expected a manifest in .parquet or .csv, got {file.suffix or 'no ending'!r}")
    rows = [_record(entry, manifest.issues, file.absolute().parent) for entry in manifest]
    labels = {f"{_LABEL}{issue}": pl.Int8 for issue in manifest.issues}
    schema: dict[str, Any] = {name: pl.Int64 if name == "views" else pl.String for name in _COLUMNS} | labels
    table = pl.DataFrame(rows, schema=schema)
    part = file.with_name(file.name + ".part")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        table.write_parquet(part) if file.suffix == ".parquet" else table.write_csv(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return Manifest(entries=manifest.entries, path=file)


def _record(entry: Entry, issues: Sequence[str], folder: Path) -> dict[str, Any]:
    path = entry.path.relative_to(folder) if entry.path.is_relative_to(folder) else entry.path
    texts = [{"kind": text.kind, "text": text.text, "language": text.language} for text in entry.texts]
    return {
        "video_id": entry.video_id,
        "path": path.as_posix(),
        "region": entry.region,
        "language": entry.language,
        "views": entry.views,
        "creator": entry.creator,
        "source_id": entry.source_id,
        "split": entry.split,
        "title": entry.title,
        "texts": json.dumps(texts, ensure_ascii=False),
        "truth": json.dumps(dict(entry.truth), ensure_ascii=False, sort_keys=True),
        **{f"{_LABEL}{issue}": entry.labels.get(issue) for issue in issues},
    }
