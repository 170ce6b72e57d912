"""Small synthetic corpora, made once a test session; the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.corpus import Manifest, SyntheticConfig, make_corpus


@pytest.fixture(scope="session")
def icd_corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two dozen videos, half of them violating; the seed puts both labels on every side."""
    return make_corpus(SyntheticConfig(out=tmp_path_factory.mktemp("icd"), videos=24, seed=9, prevalence=0.5))


@pytest.fixture(scope="session")
def ucc_corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve videos, originals and copies."""
    return make_corpus(
        SyntheticConfig(out=tmp_path_factory.mktemp("ucc"), videos=12, seed=5, task="ucc", prevalence=0.5)
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; tests that need it are skipped where it is not there."""
    folder = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TIDEGATE_DATA")
    return folder
