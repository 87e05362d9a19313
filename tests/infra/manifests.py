"""The Kubernetes manifests as data: all pods, and the connections that policies allow."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "infra" / "k8s"
Document = dict[str, Any]
HEAD_SERVICE = "sia-ray-head-svc"
"""Service that KubeRay creates."""


@dataclass(frozen=True)
class Pod:
    """Pod template with the name and kind of its owner."""

    owner: str
    kind: str
    template: Document

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the pod, which selectors match."""
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def name(self) -> str:
        """Value of the label `app.kubernetes.io/name`."""
        return self.labels["app.kubernetes.io/name"]

    @property
    def spec(self) -> Document:
        """Spec of the pod."""
        spec: Document = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[Document]:
        """Containers of the pod that keep running; init containers are not among them."""
        containers: list[Document] = self.spec["containers"]
        return containers

    @property
    def environment(self) -> list[Document]:
        """Variables of all containers of the pod."""
        return [variable for container in self.containers for variable in container.get("env", [])]


def read_base() -> list[Document]:
    """The documents of the base, which kustomize does not patch."""
    listed = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["resources"]
    assert {*listed} == {file.name for file in (K8S / "base").iterdir()} - {"kustomization.yaml"}
    return [document for name in listed for document in yaml.safe_load_all((K8S / "base" / name).read_text())]


@cache
def render(name: str) -> list[Document]:
    """Render a directory of manifests with kustomize."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, for its kustomize")
    done = subprocess.run([kubectl, "kustomize", str(K8S / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [*yaml.load_all(done.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))]  # Fast: 1,700 lines.


def pods(documents: list[Document]) -> list[Pod]:
    """Every pod template."""
    return [pod for document in documents for pod in _pods(document)]


def _pods(document: Document) -> Iterator[Pod]:
    kind, name = document["kind"], document["metadata"]["name"]
    spec = document.get("spec", {})
    if kind == "RayCluster":
        yield Pod(name, kind, spec["headGroupSpec"]["template"])
        for group in spec["workerGroupSpecs"]:
            yield Pod(name, kind, group["template"])
    elif "template" in spec:
        yield Pod(name, kind, spec["template"])


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """True if a label selector matches these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def may_talk(policies: list[Document], source: Pod, target: Pod, port: int) -> bool:
    """True if the policies let the source connect to the target and let the target accept the source."""
    out = [policy["spec"] for policy in policies if _applies(policy, source, "Egress")]
    taken = [policy["spec"] for policy in policies if _applies(policy, target, "Ingress")]
    leaves = not out or any(
        _peers(rule.get("to"), target) and _ports(rule, target, port) for spec in out for rule in spec.get("egress", [])
    )
    enters = not taken or any(
        _peers(rule.get("from"), source) and _ports(rule, target, port)
        for spec in taken
        for rule in spec.get("ingress", [])
    )
    return leaves and enters


def _applies(policy: Document, pod: Pod, way: str) -> bool:
    return way in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)


def _peers(peers: list[Document] | None, pod: Pod) -> bool:
    return peers is None or any("podSelector" in peer and selects(peer["podSelector"], pod.labels) for peer in peers)


def _ports(rule: Document, target: Pod, port: int) -> bool:
    named = {one["name"]: one["containerPort"] for container in target.containers for one in container.get("ports", [])}
    wanted = [one["port"] for one in rule.get("ports", [])]
    return not wanted or port in [named.get(one, one) for one in wanted]


def addresses(pod: Pod) -> set[tuple[str, int]]:
    """Hosts and ports that a pod's commands and variables name."""
    words = [word for container in pod.containers for word in container.get("command", [])]
    values = [variable.get("value", "") for variable in pod.environment]
    found = re.findall(r"(?:@|//|=|\s|^)([a-z][a-z0-9-]*):(\d{4,5})\b", " ".join([*words, *values]))
    return {
        (host, int(port)) for host, port in found if host not in ("localhost", "sia", "mlflow") or "//" in str(values)
    }
