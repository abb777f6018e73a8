"""The manifests in deploy/kubernetes say what Kubernetes and KEDA understand, and what is true of the example app."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from starlette.routing import Route

from example_app.main import app
from fastapi_athomic import AthomicSettings
from fastapi_athomic.cli import _parser
from fastapi_athomic.workers.port import ANSWER_SECONDS, new_app
from fastapi_athomic.workers.supervisor import STOP_RESERVE

DIRECTORY = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBERNETES = "1.30"
"""The version whose schemas are used: an old one, as newer ones take what it takes."""
TRIGGER = {
    *("bootstrapServers", "consumerGroup", "topic", "lagThreshold", "activationLagThreshold", "offsetResetPolicy"),
    *("allowIdleConsumers", "scaleToZeroOnInvalidOffset", "excludePersistentLag", "version", "partitionLimitation"),
    *("limitToPartitionsWithLag", "tls", "sasl"),
}
"""What KEDA's Kafka trigger reads, by its documentation (https://keda.sh/docs/latest/scalers/apache-kafka/)."""
POLICIES = {"policies", "stabilizationWindowSeconds", "selectPolicy"}
"""What an `HPAScalingRules` of Kubernetes has."""


def documents() -> Iterator[dict[str, Any]]:
    for path in sorted(DIRECTORY.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in documents() if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = one("Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


CONFIG = one("ConfigMap", "shop")["data"]
SCALER = one("ScaledObject", "shop-billing")["spec"]
(METADATA,) = [trigger["metadata"] for trigger in SCALER["triggers"]]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> AthomicSettings:
    for name, value in CONFIG.items():
        monkeypatch.setenv(name, value)
    return AthomicSettings()


@pytest.mark.parametrize(
    "document",
    [each for each in documents() if each["kind"] != "ScaledObject"],
    ids=lambda each: f"{each['kind']}-{each['metadata']['name']}",
)
def test_kubernetes_takes_them(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_wrong_one_would_be_seen() -> None:
    wrong = json.loads(json.dumps(one("Deployment", "shop-web")).replace("containerPort", "containersPort"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_keda_takes_the_scaler() -> None:
    assert one("ScaledObject", "shop-billing")["apiVersion"] == "keda.sh/v1alpha1"
    known = {"scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount", "fallback"}
    assert set(SCALER) <= known | {"advanced", "triggers"}
    assert SCALER["fallback"].keys() == {"failureThreshold", "replicas"}
    assert set(METADATA) <= TRIGGER
    assert all(isinstance(value, str) for value in METADATA.values()), "KEDA takes strings only"
    for rules in SCALER["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].values():
        assert set(rules) <= POLICIES
        assert all(each.keys() == {"type", "value", "periodSeconds"} for each in rules["policies"])


def test_the_scaler_names_what_the_workers_consume() -> None:
    from example_app.billing import bill
    from fastapi_athomic.subscriptions import subscriptions_of

    (subscription,) = subscriptions_of(bill)
    assert METADATA["consumerGroup"] == subscription.group_id
    assert [METADATA["topic"]] == list(subscription.topics)
    command = container("shop-billing")["command"]
    assert command[command.index("--only") + 1] == subscription.handler_id
    assert METADATA["offsetResetPolicy"] == subscription.auto_offset_reset
    assert SCALER["scaleTargetRef"]["name"] == one("Deployment", "shop-billing")["metadata"]["name"]
    assert f"kafka://{METADATA['bootstrapServers']}" == CONFIG["ATHOMIC_BROKER_URL"]
    assert SCALER["minReplicaCount"] <= SCALER["fallback"]["replicas"] <= SCALER["maxReplicaCount"]


def test_the_commands_are_understood() -> None:
    command = container("shop-billing")["command"]
    options = _parser().parse_args(command[1:])
    assert (command[0], options.area, options.app) == ("fastapi-athomic", "run", "example_app.main:app")
    assert options.port == container("shop-billing")["ports"][0]["containerPort"]
    web = container("shop-web")["command"]
    assert web[:2] == ["uvicorn", options.app]
    assert int(web[web.index("--port") + 1]) == container("shop-web")["ports"][0]["containerPort"]


def test_the_settings_are_settings(settings: AthomicSettings) -> None:
    assert settings.scheme == "kafka"
    role = {each["name"]: each["value"] for each in container("shop-web")["env"]}
    assert role == {"ATHOMIC_ROLE": "web"}
    assert "replicas" not in one("Deployment", "shop-billing")["spec"], "it would fight with the scaler"


@pytest.mark.parametrize("name", ["shop-web", "shop-billing"])
def test_pods_have_the_time_that_a_stop_takes(name: str, settings: AthomicSettings) -> None:
    pod = one("Deployment", name)["spec"]["template"]["spec"]
    needed = settings.shutdown_timeout + STOP_RESERVE
    for step in container(name).get("lifecycle", {}).values():
        needed += float(step["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > needed


def test_the_manifest_of_the_page_is_taken_and_its_times_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploying-on-kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    document = yaml.safe_load(block)
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    pod = document["spec"]["template"]["spec"]
    (shop,) = pod["containers"]
    for each in shop["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    settings = AthomicSettings()
    command = shop["command"]
    graceful = float(command[command.index("--timeout-graceful-shutdown") + 1])
    before = float(shop["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = before + graceful + settings.shutdown_timeout + STOP_RESERVE
    assert pod["terminationGracePeriodSeconds"] > needed
    assert f"{needed:.0f} s above" in page
    assert settings.kafka.heartbeat_interval <= settings.kafka.session_timeout / 3
    paths = {value["httpGet"]["path"] for key, value in shop.items() if key.endswith("Probe")}
    assert paths <= {*app.openapi()["paths"]}


def test_the_paths_of_the_probes_exist() -> None:
    served = {
        "shop-web": {*app.openapi()["paths"]},
        "shop-billing": {
            route.path
            for route in new_app(_Nobody(), "/consumers", with_status=False).routes  # type: ignore[arg-type]
            if isinstance(route, Route)
        },
    }
    for name, paths in served.items():
        probes = [value for key, value in container(name).items() if key.endswith("Probe")]
        assert len(probes) == 3
        for probe in probes:
            assert probe["httpGet"]["path"] in paths
            assert probe["httpGet"]["port"] == container(name)["ports"][0]["name"]
            assert probe.get("timeoutSeconds", 1) > ANSWER_SECONDS
    annotations = one("Deployment", "shop-billing")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in served["shop-billing"]
    assert int(annotations["prometheus.io/port"]) == container("shop-billing")["ports"][0]["containerPort"]


class _Nobody:
    places: tuple[()] = ()
