"""docker-compose.yml, as far as it can be judged without an engine: schema, names, options, and what it must never do.

Its environment is run natively, without containers, by tests/services.
"""

import re
from typing import Any

import jsonschema
import mlflow.environment_variables
import pytest
from prefect.settings.models.root import Settings
from pydantic import BaseModel

from infra import secrets
from tests.infra import schemas
from tests.services import compose

TEXT = compose.FILE.read_text()
SECRETS = {name: f"secret-{number}" for number, name in enumerate(secrets.demanded(TEXT))}
OWN_IMAGE = re.compile(r"sia:\d+\.\d+\.\d+(-gpu)?")
ONE_SHOT = ("bucket",)
KEYS_OF_THE_USER = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")

FILE = compose.load(SECRETS)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
each = pytest.mark.parametrize("name", SERVICES)


def test_compose_file_matches_the_specification() -> None:
    schema = schemas.read(schemas.COMPOSE, "check_jsonschema/builtin_schemas/vendor/compose-spec.json")
    jsonschema.validate(FILE, schema)
    with pytest.raises(jsonschema.ValidationError):  # It does judge.
        jsonschema.validate({**FILE, "services": {"redis": {"image": "redis:7", "helthcheck": {}}}}, schema)


@pytest.mark.parametrize("missing", SECRETS)
def test_services_do_not_start_without_their_secrets(missing: str) -> None:
    with pytest.raises(compose.MissingVariableError, match=missing):
        compose.load({name: value for name, value in SECRETS.items() if name != missing})


def test_secrets_are_written_once_and_kept() -> None:
    text = secrets.complete("SIA_VERSION=1\nSIA_RAY_TOKEN=mine", list(SECRETS))
    lines = dict(line.split("=") for line in text.splitlines())
    assert lines["SIA_RAY_TOKEN"] == "mine" and lines["SIA_VERSION"] == "1"
    fresh = [value for name, value in lines.items() if name in SECRETS and name != "SIA_RAY_TOKEN"]
    assert len({*fresh}) == len(SECRETS) - 1 and all(re.fullmatch("[0-9a-f]{64}", value) for value in fresh)
    assert secrets.complete(text, list(SECRETS)) == text


def test_compose_file_holds_no_secret() -> None:
    named = re.compile(r"^ *(\w*(?:PASSWORD|SECRET|TOKEN|_KEY|AUTH_STRING|REDISCLI_AUTH)\w*): *(\S.*)$", re.MULTILINE)
    users = ("RUSTFS_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
    found = [(name, value) for name, value in named.findall(TEXT) if name not in users]
    assert len(found) > len(SECRETS)
    for name, value in found:
        empty = name in KEYS_OF_THE_USER and value == f"${{{name}:-}}"
        assert empty or ":?" in value, f"{name} has a value of its own: {value}"


@each
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["pids_limit"] > 0
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "pid", "ipc", "cap_add", "network_mode", "userns_mode", "devices"} & set(service)
    limits = service["deploy"]["resources"]["limits"]
    assert limits["cpus"] and limits["memory"]
    assert "docker.sock" not in str(service)
    image, tag = service["image"].rsplit(":", 1)
    assert tag and tag != "latest" and (OWN_IMAGE.fullmatch(service["image"]) or "build" not in service), image
    assert name in ONE_SHOT or {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])


@each
def test_published_on_this_machine_only(name: str) -> None:
    published = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not published or name in ("prefect", "mlflow")


@each
def test_volumes_networks_and_services_referred_to_exist(name: str) -> None:
    service = SERVICES[name]
    assert {mount.split(":")[0] for mount in service.get("volumes", [])} <= set(FILE["volumes"])
    assert {*service["networks"]} <= set(FILE["networks"])
    for other, how in service.get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert how["condition"] == "service_completed_successfully" and SERVICES[other]["restart"] == "no"
    for host in hosts(service):
        shared = {*service["networks"]} & {*SERVICES[host]["networks"]}
        assert shared, f"{name} names {host}, and they share no network"


def hosts(service: dict[str, Any]) -> set[str]:
    """Services that a service's command and environment name as hosts. An unknown host is an error."""
    command = service.get("command", "")
    words = command if isinstance(command, str) else " ".join(command)
    said = f"{words} {' '.join(map(str, service.get('environment', {}).values()))}"
    # A host with a port that some service has, as `//user:pass@HOST:PORT` or `=HOST:PORT` or alone.
    found = set(re.findall(r"(?:@|//|=|\s)([a-z][a-z0-9-]*):\d{4,5}\b", said)) - {"localhost", "sia"}
    assert found <= set(SERVICES), found - set(SERVICES)
    return found


def test_every_service_is_named_by_who_uses_it() -> None:
    assert hosts(SERVICES["prefect"]) == {"prefect-db", "redis"}
    assert hosts(SERVICES["mlflow"]) == {"mlflow-db", "s3"}
    assert hosts(SERVICES["worker"]) == {"ray-head", "prefect", "mlflow"}


def test_databases_have_no_way_out() -> None:
    for name in ("prefect-db", "redis", "mlflow-db", "s3"):
        assert all(FILE["networks"][network]["internal"] for network in SERVICES[name]["networks"])


def test_nodes_of_the_cluster_agree() -> None:
    nodes = {name: service for name, service in SERVICES.items() if "ray start" in str(service.get("command"))}
    nodes["worker"] = SERVICES["worker"]
    assert set(nodes) == {"ray-head", "ray-worker", "ray-gpu-worker", "worker"}
    for service in nodes.values():
        assert service["image"].removesuffix("-gpu") == SERVICES["ray-head"]["image"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token" and service["environment"]["RAY_AUTH_TOKEN"]
        assert "seccomp=./infra/seccomp.json" in service["security_opt"]
        assert "sia-home:/var/lib/sia" in service["volumes"] and service["environment"]["SIA_HOME"] == "/var/lib/sia"
    holders = {
        name for name, service in SERVICES.items() if "PREFECT_API_AUTH_STRING" in service.get("environment", {})
    }
    assert holders == {"worker"}, "a worker of rollouts needs no password of a server"


def test_settings_of_prefect_and_mlflow_exist() -> None:
    known = prefect_variables(Settings)
    named = {variable for service in SERVICES.values() for variable in service.get("environment", {})}
    # Those of the package prefect-redis are used by tests/services.
    ours = {name for name in named if name.startswith("PREFECT_") and not name.startswith("PREFECT_REDIS_")}
    assert len(ours) > 10 and ours <= known
    assert not [
        name for name in named if name.startswith("MLFLOW_") and not hasattr(mlflow.environment_variables, name)
    ]


def prefect_variables(model: type[BaseModel]) -> set[str]:
    """Every variable that Prefect reads a setting from."""
    found: set[str] = set()
    for name, setting in model.model_fields.items():
        if isinstance(setting.annotation, type) and issubclass(setting.annotation, BaseModel):
            found |= prefect_variables(setting.annotation)
            continue
        found.add(f"{model.model_config.get('env_prefix', '')}{name}".upper())
        choices = getattr(setting.validation_alias, "choices", [])
        found |= {choice.upper() for choice in choices if isinstance(choice, str)}
    return found
