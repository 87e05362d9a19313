"""First contact with a model's server: what is wrong with model, key or tools is an error before the run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.doctor import services
from sia_core.doctor.report import Finding
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import PolicyError, SiaError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Failure, Rollout
from sia_core.domain.task import Task
from sia_core.engine.actors import Learnt
from sia_core.host.progress import Silent
from sia_core.loop.connect import connect, tags
from sia_core.loop.refusals import MOST, Held
from sia_core.policy.contact import make_contact
from sia_core.policy.dialect import Dialect
from sia_core.policy.protocol import EndpointError
from sia_core.policy.retry import Retry
from tests.borders.test_choices import heedless
from tests.factories import TOY, make_rollout
from tests.wire.server import Answer, Wire, chat, error, message, serve

KEY = "sk-secret-0c7d"
KINDS = ("openai", "anthropic")
QUICK = Retry(attempts=2, sleep=lambda _: None)
CHOOSING = Harness.from_files({"harness.toml": b'name = "h"\n', "agent.py": b"x = ctx.choose('?', [])\n"})
PLAIN = Harness.from_files({"harness.toml": b'name = "h"\n', "agent.py": b"x = 1\n"})


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Wire]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with serve() as wire:
        wire.plays_contacts = True
        yield wire


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def spec(kind: str, wire: Wire) -> str:
    return f"{kind}:m@{wire.url}" + ("/v1" if kind == "openai" else "")


def text(kind: str, said: str) -> Answer:
    return chat(said) if kind == "openai" else message({"type": "text", "text": said})


def calling(kind: str, *, after: int = 0) -> Answer:
    """A model that calls the tool from some attempt on, and else answers in text."""
    asked: list[int] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        asked.extend([1] if body.get("tools") else [])
        if not body.get("tools") or len(asked) <= after:
            text(kind, "ready")(handler, body)
        elif kind == "openai":
            function = {"name": "report_colour", "arguments": '{"colour": "blue"}'}
            chat(None, calls=[{"id": "c", "type": "function", "function": function}])(handler, body)
        else:
            block = {"type": "tool_use", "id": "c", "name": "report_colour", "input": {"colour": "blue"}}
            message(block, stop="tool_use")(handler, body)

    return answer


def test_contact_with_a_policy_is_one_short_reply(wire: Wire, kind: str) -> None:
    wire.answer = text(kind, "ready")
    contact = make_contact(spec(kind, wire), temperature=0.5, retry=QUICK)
    ((_, _, body),) = wire.requests
    assert body["max_tokens"] <= 32 and body["temperature"] == 0.5 and "tools" not in body
    assert (contact.asked, contact.requests, contact.output_tokens) == (("reply",), 1, 3)
    assert contact.prompt_tokens == {"openai": 7, "anthropic": 9}[kind]


@pytest.mark.parametrize(
    ("fault", "words", "hint"),
    [
        (error(400, "Invalid model name passed in model=m. Call `/v1/models` to view available models"), "no model 'm'", "model's name"),  # noqa: E501
        (error(404, "The model `m` does not exist", code="model_not_found"), "no model 'm'", "model's name"),
        (error(400, "The model `m` does not exist."), "no model 'm'", "model's name"),
        (error(401, f"Incorrect API key provided: {KEY}"), "_API_KEY was refused", "export"),
        (error(400, "No connected db.", code="no_db_connection"), "_API_KEY was refused", "export"),
        (error(400, "litellm.AuthenticationError: OpenAIException - Incorrect API key provided"), "_API_KEY was refused", "export"),  # noqa: E501
        (error(400, "API key not valid. Please pass a valid API key."), "_API_KEY was refused", "export"),
        (error(400, "this deployment is asleep"), "refused a first short request: refused (400): x: this deployment is asleep", "address"),  # noqa: E501
        (error(422, "chat template missing"), "chat template missing", "address"),
        (error(402, "no credit"), "cannot pay", "pay"),
        (error(405), "not the API", "address"),
    ],
)  # fmt: skip
def test_refusal_at_first_contact_has_the_words_of_the_server_and_a_next_step(
    wire: Wire, kind: str, fault: Answer, words: str, hint: str
) -> None:
    wire.answer = fault
    with pytest.raises(PolicyError) as refused:
        make_contact(spec(kind, wire), retry=QUICK)
    assert words in refused.value.what and hint in refused.value.hint
    assert type(refused.value).__name__ != "RejectedRequestError" and KEY not in str(refused.value)


def test_dead_server_is_an_error_of_the_endpoint(wire: Wire) -> None:
    with pytest.raises(EndpointError, match="no answer"):
        make_contact("openai:m@http://127.0.0.1:1/v1", retry=QUICK)


def test_agent_has_to_call_a_tool(wire: Wire, kind: str) -> None:
    wire.answer = calling(kind)
    contact = make_contact(spec(kind, wire), silence_s=5.0, retry=QUICK)
    assert contact.asked == ("reply", "tool call") and contact.requests == 2


def test_agent_that_calls_late_is_asked_again_and_counted(wire: Wire, kind: str) -> None:
    wire.answer = calling(kind, after=2)
    contact = make_contact(spec(kind, wire), silence_s=5.0, retry=QUICK)
    assert contact.asked == ("reply", "tool call") and contact.requests == 4


def test_agent_that_answers_in_text_is_refused(wire: Wire, kind: str) -> None:
    wire.answer = text(kind, "The colour is blue.")
    with pytest.raises(PolicyError, match=r"called no tool in 3 replies.*The colour is blue") as refused:
        make_contact(spec(kind, wire), silence_s=5.0, retry=QUICK)
    assert "--tool-call-parser" in refused.value.hint


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        error(500, "tools param requires --jinja flag"),
        error(400, "registry.ollama.ai/library/gemma does not support tools"),
        error(400, "litellm.UnsupportedParamsError: x does not support parameters: ['tools'], for model=m"),
        error(422, "tools: Extra inputs are not permitted; unknown field `tools`"),
    ],
)
def test_missing_tool_parser_is_named(wire: Wire, kind: str, refusal: Answer) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        (refusal if body.get("tools") else text(kind, "ready"))(handler, body)

    wire.answer = answer
    with pytest.raises(PolicyError, match="refused a first short request") as refused:
        make_contact(spec(kind, wire), silence_s=5.0, retry=QUICK)
    assert "--tool-call-parser NAME" in refused.value.hint


def test_choice_is_measured_at_first_contact(wire: Wire, kind: str) -> None:
    wire.answer = heedless(kind, "1")
    contact = make_contact(spec(kind, wire), choice=True, retry=QUICK)
    assert contact.asked == ("reply", "choice") and contact.dialect == Dialect(choices="numbers")


def test_model_that_cannot_choose_is_refused(wire: Wire, kind: str) -> None:
    wire.answer = text(kind, "Seven is a number.")
    with pytest.raises(PolicyError, match="cannot choose: 4 replies") as refused:
        make_contact(spec(kind, wire), choice=True, retry=QUICK)
    assert "does not choose among options" in refused.value.hint


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def config(**given: Any) -> RunConfig:
    names = ("problems", "rollouts", "gate_problems", "gate_rollouts", "test_problems", "test_rollouts", "generations")
    plan: dict[str, Any] = dict.fromkeys(names, 2)
    return RunConfig(task=TOY, **plan, **given)


def test_run_contacts_policy_and_agent_once(wire: Wire, kind: str) -> None:
    wire.plays_contacts = False
    task, told = Task.load(TOY), Told()
    mine = config(policy=spec(kind, wire), agent=spec(kind, wire))
    made = connect(mine, task, CHOOSING, told)
    assert {part: contact.asked for part, contact in made.items()} == {
        "policy": ("reply", "choice"),
        "agent": ("reply", "tool call"),
    }
    assert len(wire.contacts) == 4 and not told.said
    assert connect(mine, task, None, told, made) == made and len(wire.contacts) == 4
    other = mine.model_copy(update={"agent": f"{mine.agent}#OPENAI_API_KEY"})
    assert connect(other, task, None, told, made)["policy"] == made["policy"] and len(wire.contacts) == 6


def test_harness_that_does_not_choose_costs_no_choice(wire: Wire) -> None:
    wire.plays_contacts = False
    made = connect(config(policy=spec("openai", wire)), Task.load(TOY), PLAIN, Told())
    assert made["policy"].asked == ("reply",) and "agent" not in made


@pytest.mark.parametrize(
    "given", [{"policy": "scripted"}, {"policy": "smollm2"}, {"policy": "replay:x"}, {"policy": "vllm:/m@http://h/v1"}]
)
def test_models_without_a_providers_server_are_not_contacted(given: dict[str, Any]) -> None:
    assert connect(config(**given), Task.load(TOY), CHOOSING, Told()) == {}


def test_agent_of_a_run_without_levers_is_not_contacted(wire: Wire) -> None:
    mine = config(policy="scripted", agent=spec("openai", wire), levers=())
    assert connect(mine, Task.load(TOY), PLAIN, Told()) == {} and not wire.requests


def test_dropped_temperature_is_said_and_tagged(wire: Wire) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        names = [name for name in ("seed", "temperature") if name in body]
        (error(400, f"Unsupported parameter: '{names[0]}'") if names else chat("ready"))(handler, body)

    wire.answer, told = answer, Told()
    made = connect(config(policy=spec("openai", wire)), Task.load(TOY), PLAIN, told)
    assert tags(made) == {"sia.not_sent": "policy: seed, temperature"}
    assert [line.split(",")[0] for line in told.said] == [
        "policy openai:m: the server takes no seed",
        "policy openai:m: the server takes no temperature",
    ]


def test_policy_that_only_the_cluster_reaches_is_said_and_left(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_core.policy.contact._QUICK", QUICK)
    monkeypatch.setattr("sia_core.loop.connect.make_contact", _unreachable)
    mine, told = config(policy="openai:m@http://127.0.0.1:1/v1"), Told()
    with pytest.raises(EndpointError):
        connect(mine, Task.load(TOY), PLAIN, told)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert connect(mine, Task.load(TOY), PLAIN, told)["policy"].asked == ()
    assert "was not checked" in told.said[0]


def _unreachable(*_: Any, **__: Any) -> Any:
    raise EndpointError("no answer: refused", where="x")


def session(*counts: tuple[int, int]) -> Any:
    """A session whose policy has answered and refused these numbers of requests, each time it is asked."""
    said = iter([Learnt(None, answered, refused, "the window is 64 tokens") for answered, refused in counts])
    policy = SimpleNamespace(learnt=lambda: next(said))
    return cast(
        "Any", SimpleNamespace(engine=SimpleNamespace(policy=policy), config=SimpleNamespace(policy="openai:m"))
    )


def silent(failure: str | None = None) -> Rollout:
    made = make_rollout(failure=failure)
    return Rollout(made.unit, failure=Failure(failure, "because") if failure else None, verdict=made.verdict)


@pytest.mark.parametrize("count", [2, MOST])
def test_batch_whose_requests_are_all_refused_stops_the_run(count: int) -> None:
    held = Held(session((0, 0), (0, 9)), "generation 1: execute")
    kept = [one for _ in range(count - 1) for one in held.take(silent("error"))]

    def end() -> None:
        kept.extend(held.take(silent("error")))
        kept.extend(held.release())

    with pytest.raises(PolicyError, match=r"refused all 9 requests of . rollouts: the window is 64 tokens") as stopped:
        end()
    assert not kept and stopped.value.hint


def test_harness_that_asks_nothing_is_kept() -> None:
    held = Held(session((0, 0), (0, 0)), "generation 1: execute")
    assert sum(len(held.take(silent())) for _ in range(20)) + len(held.release()) == 20


def test_rollouts_are_released_by_the_first_reply() -> None:
    held = Held(session((0, 0), (1, 9)), "generation 1: execute")
    assert held.take(silent("error")) == []
    assert len(held.take(make_rollout())) == 2
    assert len(held.take(silent("error"))) == 1 and held.release() == []


def test_earlier_refusals_do_not_count() -> None:
    held = Held(session((5, 7), (5, 7)), "generation 2: execute")
    held.take(silent("error"))
    assert len(held.release()) == 1


def examined(policy: str, *, agent: bool = False) -> Finding:
    found = services.check_reply(policy, agent=agent)
    assert found is not None
    return found


def test_doctor_asks_for_a_reply_and_names_the_refusal(wire: Wire, kind: str) -> None:
    wire.answer = text(kind, "ready")
    found = examined(spec(kind, wire))
    assert found.status == "ok" and "replied" in found.seen
    wire.answer = error(400, "Invalid model name passed in model=m")
    found = examined(spec(kind, wire))
    assert (found.status, found.code) == ("failed", 5) and "Invalid model name" in found.seen and found.fix
    wire.answer = text(kind, "no tools here")
    assert "called no tool" in examined(spec(kind, wire), agent=True).seen
    assert services.check_reply("scripted", agent=False) is None


def test_doctor_command_checks_the_agent_too(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.plays_contacts = False
    done = CliRunner().invoke(app, ["doctor", "--policy", "scripted", "--agent", spec("openai", wire), "--json"])
    found = {one["subject"]: one["status"] for one in json.loads(done.stdout)["findings"]}
    assert found["agent"] == "ok"
    assert len(wire.contacts) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500])
def test_refusal_of_any_form_at_first_contact_is_an_error_with_a_next_step(
    wire: Wire, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[Callable[[Any], None]] = [
        lambda handler: handler.send_data(b"<html>no</html>", status, "text/html"),
        lambda handler: handler.send_json([{"error": {"code": status, "message": "no"}}], status),
        lambda handler: handler.send_json({"detail": "no"}, status),
        lambda handler: handler.send_json({"error": "no"}, status),
        lambda handler: handler.send_json({"message": "no", "param": 3}, status),
        lambda handler: handler.send_data(b"", status),
    ]
    for send in bodies:
        wire.answer = lambda handler, _, send=send: send(handler)
        with pytest.raises(SiaError) as refused:
            make_contact(spec("openai", wire), retry=QUICK)
        assert refused.value.hint
