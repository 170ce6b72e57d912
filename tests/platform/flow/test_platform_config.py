"""Configuration errors name the file and the key before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.errors import ConfigError
from tidegate.platform.config import read_config

LOG = '[source]\nkind = "log"\nfolder = "events"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "platform.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_only_a_source_is_needed_and_the_rest_is_embedded(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, LOG))
    assert config.state == tmp_path / "state"
    assert (config.index.kind, config.dead_letters.kind, config.scoring.kind) == ("sqlite", "sqlite", "preset")
    assert config.index.settings.path == str(tmp_path / "state" / "index.db")
    assert config.source.settings.folder == str(tmp_path / "events")
    assert config.policy.name == "tidegate-default"
    assert config.publisher is None
    assert not config.flow.with_outbox
    assert not list(tmp_path.glob("state"))


@pytest.mark.parametrize(("text", "said"), [
    ("", "source: expected a table [source] with a kind; known:"),
    ("[source]\nfolder = 'x'\n", "source.kind: expected one of"),
    ("[source]\nkind = 'kafak'\n", "source.kind: unknown kind 'kafak', did you mean 'kafka'?"),
    ("[source]\nkind = 'log'\n", "source.folder: expected a value, got none"),
    (LOG + "[batchs]\n", "batchs: unknown key, did you mean 'batch'?"),
    (LOG + "[batch]\nmax_bach = 3\n", "batch.max_bach: unknown key, did you mean 'max_batch'?"),
    (LOG + "[batch]\nmax_batch = '3'\n", "batch.max_batch: expected `int`, got `str`, came '3'"),
    (LOG + "[batch]\nmax_batch = 0\n", "batch: expected max_batch >= 1"),
    (LOG + "[platform]\nworkers = 0\n", "platform: workers: expected 1 to 256, got 0"),
    (LOG + "[platform]\npolicy_file = 'no.toml'\n", "no.toml: expected a readable policy file"),
    (LOG + "[operations]\nlog_level = 'loud'\n", "operations: log_level: expected debug, info"),
    (LOG + "[index]\nkind = 'sqlite'\ncolour = 1\n", "index.colour: unknown key"),
    (LOG + "[scoring]\nkind = 'http'\nurl = 'scorer'\n", "scoring: url: expected http(s)://host"),
    (LOG + "[[features]]\nkind = 'radis'\n", "features[0].kind: unknown kind 'radis'"),
    ("[source\n", "expected TOML"),
])
def test_error_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert said in str(caught.value)
    assert "platform.toml" in str(caught.value) or "no.toml" in str(caught.value)


def test_two_shadow_policies_of_one_name_are_refused(tmp_path: Path) -> None:
    policy = '[policy]\nname = "p"\nversion = "1"\n[[clause]]\nid = "c"\nissue = "icd"\ntitle = "t"\n'
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(policy)
    shadows = '[platform]\nshadow_policies = ["a.toml", "b.toml"]\n'
    with pytest.raises(ConfigError, match="two of p@1"):
        read_config(write(tmp_path, shadows + LOG))
    single = read_config(write(tmp_path, shadows.replace(', "b.toml"', "") + LOG))
    assert list(single.shadows) == ["p@1"]
