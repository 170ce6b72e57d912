"""Real data sets as manifests.

Enters: a folder as its makers publish it. Leaves: a ``Manifest`` with labels and sources; sides are set where the
data set allows it. Nothing is copied or changed. ``load_fights``: fight-detection-surv-dataset (Aktı et al. 2019),
issue ``violence``. ``load_copies``: sample videos of Meta's ThreatExchange, issue ``ucc``. ``load_esc10``: ESC-10
(Piczak 2015), one issue per class.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl

from tidegate.corpus.manifest import Entry, Manifest, Split
from tidegate.corpus.splits import DEFAULT_SHARES, grouped_split
from tidegate.errors import ManifestError

__all__ = ["load_copies", "load_esc10", "load_fights"]

_VIOLENCE = {"fight": 1, "nofight": 0}
_ESC_SIDES: dict[str, Split] = {"4": "validation", "5": "test"}


def _folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder).absolute()
    if not path.is_dir():
        raise ManifestError(f"{path}: expected the data set's folder")
    return path


def load_fights(folder: str | os.PathLike[str], *, seed: int = 0) -> Manifest:
    """Surveillance clips with and without a fight (``manifest.csv``: file, label, source_id), split by source.

    Clips whose source is ``unlisted`` may come from any source: they are training clips, always.
    """
    path = _folder(folder)
    listing = path / "manifest.csv"
    if not listing.is_file():
        raise ManifestError(f"{listing}: there is no such manifest")
    table = pl.read_csv(listing, infer_schema=False)
    if set(table.columns) < {"file", "label", "source_id"}:
        raise ManifestError(
            f"{listing}: line 1: expected columns file, label, source_id; got {', '.join(table.columns)}"
        )
    entries = []
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        if row["label"] not in _VIOLENCE:
            raise ManifestError(
                f"{listing}: line {line}: column label: expected fight or nofight, got {row['label']!r}"
            )
        entries.append(
            Entry(
                video_id=Path(row["file"]).stem,
                path=path / row["file"],
                labels={"violence": _VIOLENCE[row["label"]]},
                source_id=row["source_id"],
            )
        )
    return Manifest(entries=grouped_split(entries, "violence", DEFAULT_SHARES, seed=seed), path=listing)


def load_copies(folder: str | os.PathLike[str]) -> Manifest:
    """Families of copies; ``truth`` names the family and the edits that the file name tells. No sides: for matching."""
    path = _folder(folder)
    entries = tuple(_copy(file) for file in sorted(path.glob("*.mp4")))
    if not entries:
        raise ManifestError(f"{path}: expected .mp4 files, found none")
    return Manifest(entries=entries, path=path)


def _copy(file: Path) -> Entry:
    family, *words = file.stem.split("-")
    edits = sorted({"grey", "sepia", "logo", "longer", "padded"} & set(words))
    is_first = "orig" in words or (family != "chair" and not edits) or family == "test"
    return Entry(
        video_id=file.stem,
        path=file,
        labels={"ucc": 0 if is_first else 1},
        source_id=family,
        truth={"family": family, "edits": edits},
    )


def load_esc10(folder: str | os.PathLike[str]) -> Manifest:
    """Ten classes of environmental sound; fold 5 is the test side, fold 4 validation: folds share no recording."""
    path = _folder(folder)
    classes = {place: _class_name(place.name) for place in sorted(path.iterdir()) if re.match(r"\d{3} - ", place.name)}
    entries = tuple(
        _recording(file, name, tuple(classes.values()))
        for place, name in classes.items()
        for file in sorted(place.glob("*.ogg"))
    )
    if not entries:
        raise ManifestError(f"{path}: expected folders like '001 - Dog bark' with .ogg files, found none")
    return Manifest(entries=entries, path=path)


def _class_name(folder: str) -> str:
    return folder.split(" - ", 1)[1].strip().lower().replace(" ", "_")


def _recording(file: Path, name: str, classes: tuple[str, ...]) -> Entry:
    fold, recording, _ = file.stem.split("-", 2)
    return Entry(
        video_id=file.stem,
        path=file,
        labels={other: int(other == name) for other in classes},
        source_id=recording,
        split=_ESC_SIDES.get(fold, "train"),
        truth={"class": name, "fold": int(fold)},
    )
