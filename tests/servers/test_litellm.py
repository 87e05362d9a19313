"""LiteLLM: before vLLM as policy and as an agent's model, over both wires, and as the client of `sia serve`."""

import json
import subprocess
from collections.abc import Callable

import pytest

from sia_core.policy.protocol import Policy
from tests.borders.test_clients import PROBLEM, TOKEN, TOOL, Served
from tests.servers.checks import CHECKS, connect
from tests.servers.conftest import LITELLM_KEY
from tests.servers.environments import ensure
from tests.servers.running import Running

pytestmark = pytest.mark.servers

CLIENT = """
import json, sys
import litellm

given = json.load(sys.stdin)

def ask(messages, model="policy", **more):
    return litellm.completion(
        model=f"{given['wire']}/{model}", api_base=given["url"], api_key=given["key"], messages=messages, **more
    )

hello = [{"role": "user", "content": "hello"}]
first = ask(hello, max_tokens=50).choices[0].message
again = ask([*hello, first.model_dump(), *hello], max_tokens=50)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(hello, stream=True) if chunk.choices)
called = ask(hello, tools=[given["tool"]]).choices[0].message
result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "3"}
after = ask([*hello, called.model_dump(), result], tools=[given["tool"]]).choices[0].message
agent = ask([{"role": "user", "content": given["problem"]}], model="agent")
print(json.dumps({
    "first": first.content,
    "again": again.choices[0].message.content,
    "streamed": streamed,
    "called": [call.function.name for call in called.tool_calls],
    "after": bool(after.content or after.tool_calls),
    "tokens": again.usage.total_tokens,
    "agent": json.loads(agent.choices[0].message.content),
}))
"""
"""A program of a user who calls `sia serve` through LiteLLM; it runs in LiteLLM's environment."""


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_server_passes_over_either_wire(litellm: Running, wire: str, check: Callable[[Policy], object]) -> None:
    suffix = "/v1" if wire == "openai" else ""
    check(connect(f"{wire}:{litellm.model}@{litellm.url}{suffix}#{LITELLM_KEY}"))


@pytest.mark.parametrize(("wire", "suffix"), [("openai", "/v1"), ("anthropic", "")])
def test_sia_serve_answers_litellm(served: Served, wire: str, suffix: str) -> None:
    given = {"wire": wire, "url": served.url + suffix, "key": TOKEN, "tool": TOOL, "problem": PROBLEM}
    command = [str(ensure("litellm") / "python"), "-c", CLIENT]
    done = subprocess.run(command, check=False, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["first"] == said["again"] == said["streamed"] == "One. Two. Three."
    assert said["called"] == ["add"] and said["after"] and said["tokens"] == 5 and "colour" in said["agent"]
