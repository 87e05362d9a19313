"""The Kubernetes manifests, as far as they can be judged without a cluster: schema, references, ports and hardening."""

import re
from typing import Any

import jsonschema
import pytest
import referencing
import yaml
from referencing.jsonschema import DRAFT202012

from infra import secrets
from tests.infra import schemas
from tests.infra.manifests import (
    HEAD_SERVICE,
    K8S,
    Document,
    Pod,
    addresses,
    may_talk,
    pods,
    read_base,
    render,
    selects,
)
from tests.services import compose

NAMES = secrets.demanded(compose.FILE.read_text())
SECRETS = {name: f"secret-{number}" for number, name in enumerate(NAMES)}
OPTIONAL = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
OVERLAYS = ("base", "gpu", "landlock")
SCHEMAS = "kubernetes_validate/kubernetes-json-schema/v1.33.0-local-strict"
GROUPS = {"apps/v1": "-apps-v1", "batch/v1": "-batch-v1", "networking.k8s.io/v1": "-networking-v1", "v1": "-v1"}

BASE = read_base()
PODS = pods(BASE)
each = pytest.mark.parametrize("pod", PODS, ids=lambda pod: f"{pod.owner}-{pod.name}")


def of_kind(kind: str) -> list[Document]:
    """Documents of the base."""
    return [document for document in BASE if document["kind"] == kind]


def names(kind: str) -> set[str]:
    """Names of the documents of a kind."""
    return {document["metadata"]["name"] for document in of_kind(kind)}


def checker(member: str) -> Any:
    """A validator for one of the schemas of Kubernetes, which refer to nothing outside themselves."""
    definitions = schemas.read(schemas.KUBERNETES, f"{SCHEMAS}/_definitions.json")
    resource: Any = DRAFT202012.create_resource(definitions)
    registry: Any = referencing.Registry().with_resource("/api/_definitions.json", resource)
    if member.startswith("#"):
        registry = registry.with_resource(definitions["$id"], resource)
        schema: Any = {"$ref": f"{definitions['$id']}{member}"}
    else:
        schema = schemas.read(schemas.KUBERNETES, f"{SCHEMAS}/{member}")
    return jsonschema.Draft202012Validator(schema, registry=registry)


@pytest.mark.slow  # The wheel of the schemas has 22 MB.
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_documents_match_the_schemas_of_kubernetes(overlay: str) -> None:
    documents = BASE if overlay == "base" else render(overlay)
    for document in documents:
        if document["kind"] == "RayCluster":
            continue  # Not of Kubernetes; its pods are judged below.
        checker(f"{document['kind'].lower()}{GROUPS[document['apiVersion']]}.json").validate(document)
    template = checker("#/$defs/io.k8s.api.core.v1.PodTemplateSpec")
    for pod in pods(documents):
        template.validate(pod.template)
    with pytest.raises(jsonschema.ValidationError):  # It does judge.
        template.validate({**PODS[0].template, "spec": {**PODS[0].spec, "hostUser": False}})


@each
def test_pods_are_hardened(pod: Pod) -> None:
    outer = pod.spec["securityContext"]
    assert outer["runAsNonRoot"] and outer["runAsUser"] > 0 and outer["seccompProfile"]
    assert pod.spec["automountServiceAccountToken"] is False and pod.spec["serviceAccountName"] in names(
        "ServiceAccount"
    )
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
    for container in [*pod.containers, *pod.spec.get("initContainers", [])]:
        inner = container["securityContext"]
        assert not inner["allowPrivilegeEscalation"] and inner["readOnlyRootFilesystem"]
        assert inner["capabilities"] == {"drop": ["ALL"]} and "privileged" not in inner
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
        root = inner.get("runAsUser", outer["runAsUser"]) == 0
        assert root == (container["name"] == "copy"), "one container copies a file to the node as root, no other"
    for container in pod.containers:
        assert pod.kind == "Job" or {"readinessProbe", "livenessProbe"} <= set(container)


@each
def test_volumes_and_secrets_that_pods_refer_to_exist(pod: Pod) -> None:
    claims = [
        t["metadata"]["name"]
        for d in of_kind("StatefulSet")
        if d["metadata"]["name"] == pod.owner
        for t in d["spec"]["volumeClaimTemplates"]
    ]
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for container in [*pod.containers, *pod.spec.get("initContainers", [])]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= {*volumes, *claims}
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in names("PersistentVolumeClaim")
        assert "configMap" not in volume and "secret" not in volume
    for variable in pod.environment:
        if "valueFrom" in variable:
            key = variable["valueFrom"]["secretKeyRef"]
            assert key["name"] == "sia"
            assert key["key"] in NAMES or (key["key"] in OPTIONAL and key["optional"])
        # $(NAME) takes only what was named before.
        before = {one["name"] for one in pod.environment[: pod.environment.index(variable)]}
        assert {*re.findall(r"\$\((\w+)\)", variable.get("value", ""))} <= before


def test_selectors_match_their_own_pods_only() -> None:
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        for document in of_kind(kind):
            taken = [pod for pod in PODS if selects(document["spec"]["selector"], pod.labels)]
            assert [pod.owner for pod in taken] == [document["metadata"]["name"]]
    for service in of_kind("Service"):
        (pod,) = [pod for pod in PODS if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        ports = {port["name"]: port["containerPort"] for one in pod.containers for port in one.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_network_policies_select_a_pod() -> None:
    for policy in of_kind("NetworkPolicy"):
        assert [pod for pod in PODS if selects(policy["spec"]["podSelector"], pod.labels)], policy["metadata"]["name"]


def test_only_the_needed_ports_are_open() -> None:
    policies, by_name = of_kind("NetworkPolicy"), {pod.name: pod for pod in PODS}
    ports = {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in of_kind("Service")}
    needed = set()
    for pod in PODS:
        for host, port in addresses(pod):
            if host == HEAD_SERVICE:
                needed.add((pod.name, "ray-head", port))
            elif host != pod.name:
                assert ports[host] == port
                needed.add((pod.name, host, port))
    assert ("worker", "mlflow", 5000) in needed and ("mlflow", "s3", 9000) in needed and len(needed) >= 9
    for source, target, port in needed:
        assert may_talk(policies, by_name[source], by_name[target], port), f"{source} cannot reach {target}"
    for target, port in ports.items():
        for source in by_name:
            if (source, target, port) not in needed and source != target:
                assert not may_talk(policies, by_name[source], by_name[target], port), f"{source} reaches {target}"
    for source in ("ray-head", "ray-worker", "worker"):
        assert all(may_talk(policies, by_name[source], by_name[other], 23456) for other in ("ray-head", "worker"))
    assert not may_talk(policies, by_name["mlflow"], by_name["ray-head"], 6379)


def test_pods_grant_the_rights_that_the_strict_sandbox_needs() -> None:
    for pod in PODS:
        if pod.labels.get("sia.ray/node") == "true":
            assert pod.spec["hostUsers"] is False  # Kubernetes takes Unmasked in no other pods.
            assert pod.spec["securityContext"]["seccompProfile"]["localhostProfile"] == "profiles/sia.json"
            assert pod.spec["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
            assert all(container["securityContext"]["procMount"] == "Unmasked" for container in pod.containers)


@pytest.mark.parametrize("name", ["prefect", "prefect-services", "mlflow", "bucket", "worker"])
def test_pods_run_the_commands_of_docker_compose(name: str) -> None:
    """Check that pods run what docker-compose.yml says, which tests/services runs natively."""
    service = compose.load(SECRETS)["services"][name]
    (pod,) = [pod for pod in PODS if pod.name == name]
    assert pod.containers[0]["command"] == service["command"]
    said = {key: str(value).replace("ray-head:", f"{HEAD_SERVICE}:") for key, value in service["environment"].items()}
    own = {key: value for key, value in _resolved(pod).items() if not key.startswith("SIA_") or key == "SIA_HOME"}
    # Compose passes keys on as empty where there are none; here they are left out.
    ignored = {"DO_NOT_TRACK", *OPTIONAL}
    assert {k: v for k, v in own.items() if k not in ignored} == {k: v for k, v in said.items() if k not in ignored}


def _resolved(pod: Pod) -> dict[str, str]:
    values: dict[str, str] = {}
    for variable in pod.environment:
        if "value" in variable:
            values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], variable["value"])
        else:
            values[variable["name"]] = SECRETS.get(variable["valueFrom"]["secretKeyRef"]["key"], "")
    return values


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_renders_every_overlay(overlay: str) -> None:
    documents = render(overlay)
    for pod in pods(documents):
        for container in [*pod.containers, *pod.spec.get("initContainers", [])]:
            assert re.fullmatch(r"[\w./-]+:[\w.-]+", container["image"]) and not container["image"].endswith(":latest")
    assert all(document["metadata"].get("namespace", "sia") == "sia" for document in documents)
    made = [pod.name for pod in pods(documents)]
    assert ("ray-gpu-worker" in made) == (overlay == "gpu")
    text = yaml.safe_dump_all(documents)
    assert ("Unmasked" in text) == ("Localhost" in text) == (overlay != "landlock")
    assert ("seccomp" in made) == (overlay != "landlock")


def test_own_images_are_those_that_kustomize_tags() -> None:
    tagged = {image["name"] for image in yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["images"]}
    untagged = {container["image"] for pod in PODS for container in pod.containers if ":" not in container["image"]}
    assert untagged == tagged == {"sia"}
