# SPDX-License-Identifier: Apache-2.0
"""The manifests in deploy/: valid by the published schemas, and right about the server.

KServe's package is read and not imported: it would bring a web server, a cluster's client and more.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import kubernetes_validate
import pytest
import yaml

from stateport.cli.serve import serve
from tests.runtime.serve.process import serving
from tests.runtime.serve.streams.services import Redis

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
VERSION: Final = "1.37"
Manifest = dict[str, Any]


def manifests(folder: str) -> list[Manifest]:
    """All objects in the files of a folder."""
    return [
        manifest
        for path in sorted((DEPLOY / folder).glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def of_kind(folder: str, kind: str, name: str) -> Manifest:
    [manifest] = [
        each
        for each in manifests(folder)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return manifest


def kubernetes_manifests() -> list[Any]:
    return [
        pytest.param(each, id=f"{each['kind']} {each['metadata']['name']}")
        for each in manifests("kubernetes")
    ]


@pytest.mark.parametrize("manifest", kubernetes_manifests())
def test_kubernetes_knows_every_field(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_an_unknown_field_is_found() -> None:
    manifest = of_kind("kubernetes", "PodDisruptionBudget", "stateport")
    manifest["spec"]["maxUnavailible"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("manifest", manifests("kserve"), ids=lambda each: str(each["kind"]))
def test_kserve_knows_every_field(manifest: Manifest) -> None:
    version = manifest["apiVersion"].partition("/")[2].capitalize()
    assert [*unknown(manifest, f"{version}{manifest['kind']}")] == []


def test_an_unknown_field_of_kserve_is_found() -> None:
    runtime = of_kind("kserve", "ServingRuntime", "stateport")
    runtime["spec"]["supportedModelFormats"][0]["autoselect"] = True
    assert [*unknown(runtime, "V1alpha1ServingRuntime")] == ["autoselect"]


def test_the_containers_of_kserve_are_those_of_a_pod() -> None:
    spec = of_kind("kserve", "ServingRuntime", "stateport")["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lstm"},
        "spec": {"containers": spec["containers"], "volumes": spec["volumes"]},
    }
    kubernetes_validate.validate(pod, VERSION, strict=True)


def unknown(value: Any, kind: str) -> Iterator[str]:
    """The fields that a class of KServe does not have; those of Kubernetes are skipped."""
    if kind.startswith("list["):
        for each in value:
            yield from unknown(each, kind[5:-1])
        return
    types = _types_of(kind)
    for name, part in value.items() if types else ():
        if name not in types:
            yield name
        else:
            yield from unknown(part, types[name])


def _types_of(kind: str) -> dict[str, str]:
    """The types of a class's fields, by the names in JSON; none of a class that is not KServe's."""
    package = importlib.util.find_spec("kserve")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0], "models")
    for path in folder.glob("*.py"):
        if path.stem.replace("_", "") == kind.lower():
            tables = {}
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    tables[node.targets[0].id] = node.value
            types = ast.literal_eval(tables["openapi_types"])
            names = ast.literal_eval(tables["attribute_map"])
            return {names[field]: types[field] for field in types}
    return {}


def container(folder: str) -> Manifest:
    """The container with the server."""
    if folder == "kubernetes":
        spec = of_kind(folder, "Deployment", "stateport")["spec"]["template"]["spec"]
    else:
        spec = of_kind(folder, "ServingRuntime", "stateport")["spec"]
    found: Manifest = spec["containers"][0]
    return found


def parsed(folder: str) -> dict[str, Any]:
    """The arguments of the server, as the command reads them."""
    return serve.make_context("serve", [*container(folder)["args"]]).params


@pytest.mark.parametrize("folder", ["kubernetes", "kserve"])
def test_ports_are_those_that_the_server_listens_on(folder: str) -> None:
    options = parsed(folder)
    ports = {port["containerPort"] for port in container(folder)["ports"]}
    assert ports == {options[name] for name in ("http", "grpc")} - {None}


@pytest.mark.parametrize("folder", ["kubernetes", "kserve"])
def test_the_server_runs_with_these_arguments_and_answers_the_probes(
    folder: str, reference: Path, tmp_path: Path
) -> None:
    options = parsed(folder)
    redis = Redis(tmp_path)
    redis.start()
    try:
        line = ["--store", redis.url, "--durability", options["durability"]]
        with serving({"lstm": reference}, *line) as server:
            probes = [each for name, each in container(folder).items() if name.endswith("Probe")]
            assert len(probes) >= 2
            for probe in probes:
                with urlopen(f"http://{server.http}{probe['httpGet']['path']}") as answer:
                    assert answer.status == 200
    finally:
        redis.kill()


def test_services_and_budgets_are_for_the_pods_that_there_are() -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in manifests("kubernetes")
        if "template" in each["spec"]
    ]
    for each in manifests("kubernetes"):
        spec = each["spec"]
        selector = spec.get("selector") or spec.get("podSelector")
        if selector is not None:
            assert selector.get("matchLabels", selector) in labels

    store = of_kind("kubernetes", "Service", "stateport-valkey")
    [port] = store["spec"]["ports"]
    for folder in ("kubernetes", "kserve"):
        assert parsed(folder)["store"] == f"redis://{store['metadata']['name']}:{port['port']}/0"


def test_there_is_time_to_stop() -> None:
    pod = of_kind("kubernetes", "Deployment", "stateport")["spec"]["template"]["spec"]
    pause = container("kubernetes")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause + parsed("kubernetes")["grace"] < pod["terminationGracePeriodSeconds"]


def test_the_autoscaler_reads_a_metric_of_the_server(reference: Path) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    [rule] = rules["rules"]["custom"]
    [metric] = of_kind("kubernetes", "HorizontalPodAutoscaler", "stateport")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]

    names = {f"stateport_queue_seconds_{part}" for part in ("sum", "count")}
    assert rule["seriesQuery"].startswith("stateport_queue_seconds_sum{")
    assert all(f"rate({name}{{" in rule["metricsQuery"] for name in names)
    with (
        serving({"lstm": reference}) as server,
        urlopen(f"http://{server.http}/metrics") as answer,
    ):
        page = answer.read().decode()
    assert "# TYPE stateport_queue_seconds histogram" in page
