"""The manifests in `deploy/kubernetes`: as Kubernetes' schemas have them, and as the server needs
them to be."""

import copy
import re
import subprocess
import sys
import tomllib
from typing import Any

import kubernetes_validate
import pytest
import yaml
from places import ROOT

import models
from models.vosk.prepared import PreparedModel
from modelserver.settings.configuration import read_configuration

DIRECTORY = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())


def _documents(file: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((DIRECTORY / file).read_text()) if one]


KUSTOMIZATION = _documents("kustomization.yaml")[0]
RESOURCES = [one for file in KUSTOMIZATION["resources"] for one in _documents(file)]


def merged(base: Any, patch: Any) -> Any:
    """Return a strategic merge, as far as ours need it: lists of things with names are merged by
    these."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = dict(base)
        for key, value in patch.items():
            result[key] = merged(base[key], value) if key in base else value
        return result
    if isinstance(base, list) and all(isinstance(one, dict) and "name" in one for one in base):
        there = {one["name"]: one for one in base}
        for one in patch:
            there[one["name"]] = merged(there.get(one["name"], {}), one)
        return list(there.values())
    return patch


@pytest.fixture(scope="module")
def workload() -> dict[str, Any]:
    """Return the workload with its patch."""
    (base,) = (one for one in RESOURCES if one["kind"] == "StatefulSet")
    (patch,) = _documents(KUSTOMIZATION["patches"][0]["path"])
    assert (patch["kind"], patch["metadata"]) == (base["kind"], {"name": "modelserver"})
    found: dict[str, Any] = merged(copy.deepcopy(base), patch)
    return found


@pytest.fixture(scope="module")
def server(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    container: dict[str, Any] = found
    return container


@pytest.mark.parametrize("version", VERSIONS)
def test_all_are_what_kubernetes_takes(workload: dict[str, Any], version: str) -> None:
    others = [one for one in RESOURCES if one["kind"] != "StatefulSet"]
    assert len(others) >= 6
    for document in (workload, *others):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_mistake_would_be_seen(workload: dict[str, Any]) -> None:
    workload = copy.deepcopy(workload)
    workload["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workload, VERSIONS[-1], strict=True)


def test_no_file_is_forgotten() -> None:
    named = {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    named |= {patch["path"] for patch in KUSTOMIZATION["patches"]}
    named |= {name for one in KUSTOMIZATION["configMapGenerator"] for name in one["files"]}
    assert named == {file.name for file in DIRECTORY.iterdir() if file.is_file()}
    keda = _documents("keda/kustomization.yaml")[0]
    assert keda["resources"] == ["scaledobject.yaml"]
    deleted = yaml.safe_load(keda["patches"][0]["patch"])
    assert any(
        (one["kind"], one["metadata"]["name"]) == (deleted["kind"], deleted["metadata"]["name"])
        for one in RESOURCES
    )


def test_memory_is_what_inspect_says(
    embedded: models.ModelLocation, prepared_embedded: PreparedModel
) -> None:
    printed = subprocess.run(
        [
            *(sys.executable, "-m", "modelserver", "models", "inspect", "--kubernetes"),
            *("--workers", "2", "--prepared-dir", str(prepared_embedded.directory.parent)),
            embedded.name,
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == (DIRECTORY / "memory.yaml").read_text()


def test_the_settings_are_settings(server: dict[str, Any]) -> None:
    file = DIRECTORY / "modelserver.toml"
    environment = {e["name"]: e.get("value", "x") for e in server["env"]}
    settings = read_configuration(file, environment, {}).settings
    assert settings.workers.count == 2
    assert tomllib.loads(file.read_text())["admin"]["listen"].endswith(":8092")


def test_an_end_takes_no_longer_than_is_waited(
    workload: dict[str, Any], server: dict[str, Any]
) -> None:
    settings = read_configuration(DIRECTORY / "modelserver.toml", {}, {}).settings
    before = float(server["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert before + settings.notice_s + settings.drain_s + 5 <= grace
    readiness = server["readinessProbe"]
    assert readiness["httpGet"]["path"] == "/readyz"
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_everything_that_is_mounted_or_selected_is_there(
    workload: dict[str, Any], server: dict[str, Any]
) -> None:
    pod = workload["spec"]["template"]
    volumes = {one["name"] for one in pod["spec"]["volumes"]}
    volumes |= {one["metadata"]["name"] for one in workload["spec"]["volumeClaimTemplates"]}
    for container in (*pod["spec"]["initContainers"], server):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["limits"]["memory"]
    labels = {**pod["metadata"]["labels"], **KUSTOMIZATION["labels"][0]["pairs"]}
    ports = {port["name"] for port in server["ports"]}
    for service in (one for one in RESOURCES if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert workload["spec"]["serviceName"] in {
        one["metadata"]["name"] for one in RESOURCES if one["kind"] == "Service"
    }


def test_what_keda_asks_for_is_measured() -> None:
    table = (DIRECTORY.parents[1] / "docs" / "metrics.md").read_text()
    (scaled,) = _documents("keda/scaledobject.yaml")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    names = {name for query in queries for name in re.findall(r"modelserver_\w+", query)}
    assert len(names) >= 3
    for name in names:
        assert f"`{name.removesuffix('_sum')}`" in table
