"""An agent over a real wire: the real SDK against a local server, a log of replies, and a Feedback-Agent above it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_core.agents.conversation import Allowance
from sia_core.agents.llm import LlmAgent
from sia_core.domain.lineage import Decision
from sia_core.host.progress import Silent
from sia_core.policy.fitting import FittingPolicy
from sia_core.policy.log import LoggedPolicy
from sia_core.policy.retry import Retry
from tests.agents.sources import MemorySource
from tests.agents.test_llm import BATCH, GOOD, HARNESS, SEED, SITUATION
from tests.policy.test_http import connect
from tests.wire.server import Answer, Handler, Wire, raw, serve

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
SUBMIT = "submit_decision"


def body(
    content: Any = None, *calls: Any, finish: Any = "tool_calls", usage: Any = USAGE, **more: Any
) -> dict[str, Any]:
    """The body of a chat completion; calls are sent as they are given."""
    message = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def call(name: Any = SUBMIT, arguments: Any = None, id: Any = "c1") -> dict[str, Any]:  # noqa: A002
    """A call as a server sends it; by default, a valid decision."""
    arguments = json.dumps(GOOD) if arguments is None and name == SUBMIT else arguments
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def plain(value: Any) -> Answer:
    """Answer with one JSON body, in which numbers may be anything that Python writes."""
    return raw(value if isinstance(value, bytes) else json.dumps(value).encode())


def submit(**changes: Any) -> dict[str, Any]:
    """A chat completion with a decision."""
    return body(None, call(arguments=json.dumps({**GOOD, **changes})))


def message(*blocks: Any, stop: Any = "tool_use", usage: Any = None) -> dict[str, Any]:
    """The body of a message of Anthropic."""
    usage = {"input_tokens": 7, "output_tokens": 3} if usage is None else usage
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": list(blocks),
        "stop_reason": stop,
        "usage": usage,
    }


def use(name: Any = SUBMIT, given: Any = None, id: Any = "c1") -> dict[str, Any]:  # noqa: A002
    """A block that calls a tool; by default, a valid decision."""
    return {"type": "tool_use", "id": id, "name": name, "input": GOOD if given is None and name == SUBMIT else given}


class Said(Silent):
    """Keeps the lines that were reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Talk:
    """Decisions of an agent behind one server."""

    wire: Wire
    kind: str
    log: Path
    allowance: Allowance = field(default_factory=Allowance)
    records: list[Mapping[str, Any]] = field(default_factory=list)
    said: Said = field(default_factory=Said)

    def model(self) -> LoggedPolicy:
        """Open the model as a process does that begins or resumes the run."""
        served: Any = connect(self.kind, self.wire.url, Retry.of_agent(5.0, sleep=lambda _: None))
        window: Callable[[], int | None] = getattr(served, "window", lambda: None)
        return LoggedPolicy(FittingPolicy(served, self.said.say, window), self.log)

    def decide(self, *answers: Answer, then: Answer | None = None) -> Decision:
        """Let the agent decide; the server gives these answers, then `then`."""
        self.wire.faults.extend(answers)
        self.wire.answer = then or self.wire.answer
        agent = LlmAgent(
            f"{self.kind}:m",
            self.model(),
            allowance=self.allowance,
            price=None,
            keep=lambda _, __, record: self.records.append(record),
        )
        return agent.decide(SITUATION, MemorySource([SEED], {1: BATCH}, {HARNESS.digest: HARNESS}))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Bodies of the requests."""
        return [sent for _, _, sent in self.wire.requests]

    @property
    def texts(self) -> str:
        """All of the last request, as JSON."""
        return json.dumps(self.bodies[-1]["messages"], ensure_ascii=False)


@contextmanager
def talking(kind: str, folder: Path, **allowed: Any) -> Iterator[Talk]:
    """An agent behind a running server."""
    with serve() as wire:
        yield Talk(wire, kind, folder / "agent.jsonl", Allowance(**allowed))


def strict(then: Sequence[Answer], fault: Callable[[dict[str, Any]], str]) -> Answer:
    """A server that parses the history: it answers 400 with `fault(body)` unless that is empty, else with `then`."""
    left = list(then)

    def answer(handler: Handler, sent: dict[str, Any]) -> None:
        if why := fault(sent):
            handler.send_json({"error": {"message": why, "type": "invalid_request_error"}}, 400)
        else:
            left.pop(0)(handler, sent)

    return answer
