"""Manifests: what is written is read back, and what is wrong is named by file, line and column."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tidegate.corpus import Entry, Manifest, read_manifest, write_manifest
from tidegate.errors import ManifestError
from tidegate.types import TextSpan

GOOD = "video_id,path,label_icd,region,language,views,creator,source_id,split,title,texts,truth"


def entries(folder: Path) -> tuple[Entry, ...]:
    return (
        Entry(
            video_id="a",
            path=folder / "videos" / "a.mp4",
            labels={"icd": 1},
            region="IN",
            language="hi",
            views=12,
            creator="u1",
            source_id="s1",
            split="train",
            texts=(TextSpan("title", 'सुप्रभात, "दोस्तों"', "hi"), TextSpan("sticker", "two\nlines", None)),
            truth={"kind": "sticker", "span": [0.5, 1.25], "box": None},
        ),
        Entry(video_id="b", path=Path("/elsewhere/b.mp4"), labels={"icd": 0, "ucc": 1}, source_id="s2", split="test"),
        Entry(video_id="c", path=folder / "c.mp4"),
    )


def csv(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "manifest.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["m.parquet", "m.csv"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    written = write_manifest(Manifest(entries=entries(tmp_path)), tmp_path / name)
    back = read_manifest(tmp_path / name)
    assert back.entries == written.entries
    assert back.issues == ("icd", "ucc")
    assert [path.name for path in tmp_path.iterdir()] == [name], "no part file is left"


def test_paths_are_relative_to_the_manifest_so_that_a_corpus_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write_manifest(Manifest(entries=entries(tmp_path / "old")), tmp_path / "old" / "m.csv")
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.csv")[0].path == tmp_path / "new" / "videos" / "a.mp4"


def test_a_missing_label_is_unlabelled_and_not_harmless(tmp_path: Path) -> None:
    manifest = read_manifest(csv(tmp_path, "video_id,path,label_icd", "a,a.mp4,", "b,b.mp4,0"))
    assert manifest[0].labels == {}
    assert [entry.video_id for entry in manifest.labelled("icd")] == ["b"]


@pytest.mark.parametrize(
    ("row", "line", "column"),
    [
        ("b,b.mp4,2,,,,,,,,,", 3, "label_icd"),
        ("b,b.mp4,yes,,,,,,,,,", 3, "label_icd"),
        ("a,b.mp4,1,,,,,,,,,", 3, "video_id"),
        (",b.mp4,1,,,,,,,,,", 3, "video_id"),
        ("b,,1,,,,,,,,,", 3, "path"),
        ("b,../b.mp4,1,,,,,,,,,", 3, "path"),
        ("b,b.mp4,1,usa,,,,,,,,", 3, "region"),
        ("b,b.mp4,1,,,-4,,,,,,", 3, "views"),
        ("b,b.mp4,1,,,many,,,,,,", 3, "views"),
        ("b,b.mp4,1,,,,,,training,,,", 3, "split"),
        ("b,b.mp4,1,,,,,,,,{},", 3, "texts"),
        ('b,b.mp4,1,,,,,,,,"[{""kind"":""song"",""text"":""x""}]",', 3, "texts"),
        ("b,b.mp4,1,,,,,,,,,nonsense", 3, "truth"),
    ],
)
def test_a_wrong_value_is_named_by_file_line_and_column(tmp_path: Path, row: str, line: int, column: str) -> None:
    file = csv(tmp_path, GOOD, "a,a.mp4,1,,,,,,,,,", row)
    with pytest.raises(ManifestError) as error:
        read_manifest(file)
    assert str(file) in str(error.value)
    assert f"line {line}: column {column}: expected" in str(error.value)


def test_missing_and_unknown_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="missing column path"):
        read_manifest(csv(tmp_path, "video_id,label_icd", "a,1"))
    with pytest.raises(ManifestError, match="unknown column lable_icd"):
        read_manifest(csv(tmp_path, "video_id,path,lable_icd", "a,a.mp4,1"))


@pytest.mark.parametrize("name", ["absent.parquet", "m.json"])
def test_a_manifest_that_cannot_be_one_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ManifestError, match=name):
        read_manifest(tmp_path / name)


def test_a_broken_parquet_file_is_an_error(tmp_path: Path) -> None:
    write_manifest(Manifest(entries=entries(tmp_path)), tmp_path / "m.parquet")
    whole = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match="not readable as parquet"):
        read_manifest(tmp_path / "m.parquet")


def test_a_source_on_two_sides_is_refused_unless_allowed(tmp_path: Path) -> None:
    file = csv(tmp_path, "video_id,path,source_id,split", "a,a.mp4,s7,train", "b,b.mp4,s7,test", "c,c.mp4,s8,test")
    with pytest.raises(ManifestError, match="s7"):
        read_manifest(file)
    assert read_manifest(file, allow_leaks=True).leaking_sources() == ("s7",)


def test_files_that_are_not_there_are_named_on_demand(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    manifest = read_manifest(csv(tmp_path, "video_id,path", "a,a.mp4", "b,b.mp4"))
    assert [entry.video_id for entry in manifest.missing_files()] == ["b"]
    with pytest.raises(ManifestError, match=r"1 of 2 videos are not there: .*b\.mp4"):
        manifest.check_files()


def test_parquet_of_another_tool_with_integer_labels_is_read(tmp_path: Path) -> None:
    pl.DataFrame({"video_id": ["a"], "path": ["a.mp4"], "label_icd": [1], "views": [7]}).write_parquet(
        tmp_path / "m.parquet"
    )
    entry = read_manifest(tmp_path / "m.parquet")[0]
    assert entry.labels == {"icd": 1}
    assert entry.context.views == 7
