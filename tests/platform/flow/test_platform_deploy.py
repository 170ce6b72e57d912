"""Deployment files parse, and every key and series in them exists."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.platform.config import read_config
from tidegate.platform.metrics import SERIES
from tidegate.platform.scoring.ray_settings import RayScorerSettings

DEPLOY = Path(__file__).parents[3] / "deploy"
YAML = sorted(path for path in DEPLOY.rglob("*.y*ml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> dict[str, dict[str, Any]]:
    found = [doc for path in (DEPLOY / "kubernetes").glob("*.yaml") for doc in documents(path)]
    return {f"{doc['kind']}/{doc['metadata']['name']}": doc for doc in found if "metadata" in doc}


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_parses(path: Path) -> None:
    assert documents(path)


def test_example_is_accepted() -> None:
    config = read_config(DEPLOY.parent / "examples" / "platform.toml")
    assert (config.source.kind, config.scoring.kind, config.index.kind) == ("folder", "preset", "sqlite")
    assert config.budget.later_items_per_second == 2.0


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("platform.toml")), ids=lambda path: path.parent.name)
def test_configurations_are_accepted(path: Path) -> None:
    config = read_config(path)
    assert config.source.kind == "kafka"
    assert config.index.kind == "postgres"
    assert config.operations.port == 9100


def test_dashboard_uses_series_that_exist_and_leaves_none_out() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "tidegate.json").read_text())
    text = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    used = {re.sub(r"_bucket$", "", name) for name in re.findall(r"tidegate_[a-z_]+", text)}
    assert used == set(SERIES)
    places = [tuple(sorted(panel["gridPos"].items())) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_compose_services_refer_to_files_and_services_that_exist() -> None:
    (compose,) = documents(DEPLOY / "compose" / "docker-compose.yml")
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = str(volume).split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).exists(), source
            elif not source.startswith(("/", "$")):
                assert source in compose["volumes"]
    build = services["worker"]["build"]
    assert (DEPLOY / "compose" / build["context"] / build["dockerfile"]).is_file()
    config = read_config(DEPLOY / "compose" / "platform.toml")
    assert config.source.settings.bootstrap.split(":")[0] in services


def test_worker_probes_ask_what_the_worker_answers() -> None:
    workers = manifests()["StatefulSet/tidegate-worker"]
    template = workers["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    config = read_config(DEPLOY / "kubernetes" / "platform.toml")
    assert ports == {"operations": config.operations.port}
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "operations"}
    assert template["spec"]["terminationGracePeriodSeconds"] > config.operations.drain_seconds
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in workers["spec"]["volumeClaimTemplates"]}
    assert mounted == claims | {volume["name"] for volume in template["spec"]["volumes"]}
    assert workers["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert workers["spec"]["serviceName"] in {name.split("/")[1] for name in manifests() if name.startswith("Service/")}


def test_ray_service_deploys_the_stages_that_workers_ask() -> None:
    service = manifests()["RayService/tidegate-scoring"]
    applications = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    settings = read_config(DEPLOY / "kubernetes" / "platform.toml").scoring.settings
    assert isinstance(settings, RayScorerSettings)
    assert not settings.deploy
    assert [application["name"] for application in applications] == [f"tidegate-{stage}" for stage in settings.stages]
    known = {field.name for field in dataclasses.fields(RayScorerSettings)} | {"stage", "media_folder"}
    for application in applications:
        assert set(application["args"]) <= known
        assert application["import_path"] == "tidegate.platform.scoring.ray_serve:build"
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    gpus = ["nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    assert gpus == [False, True]


def test_kustomization_names_files_that_exist() -> None:
    (kustomization,) = documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    generated = [name for generator in kustomization["configMapGenerator"] for name in generator["files"]]
    for name in (*kustomization["resources"], *generated):
        assert (DEPLOY / "kubernetes" / name).is_file()
