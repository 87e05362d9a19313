"""A policy whose replies are cut, empty or refused is counted and said: first on the screen, then in every record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sia_core.agents.evidence import gather
from sia_core.agents.opening import _evidence
from sia_core.api.result import read_result
from sia_core.cli import show
from sia_core.domain.candidate import Candidate
from sia_core.domain.replies import Replies, count_replies, reply_lines
from sia_core.domain.rollout import Rollout, Sampling, ToolCall, Turn
from sia_core.host.progress import Silent
from sia_core.loop.analyze import analyze
from sia_core.loop.improve import improve
from sia_core.loop.sealed_test import seal
from sia_core.loop.session import Session
from sia_core.loop.stopping import record_stop
from sia_core.policy.protocol import Completion, Policy, Request
from sia_core.policy.retry import Retry
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.policy.spec import parse_spec
from sia_core.report.generation_section import _evidence as evidence_rows
from sia_core.report.page import report
from sia_core.search.plateau import find_plateau
from tests.agents.test_llm import SITUATION
from tests.factories import make_rollout
from tests.loop.in_process import open_session
from tests.wire.server import Answer, Wire, chat, message, serve


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Always(ScriptedPolicy):
    """A policy with one reply."""

    def __init__(self, text: str, finish: str = "stop", tokens: int = 0, calls: tuple[ToolCall, ...] = ()) -> None:
        self._completion = Completion(text, "prompt", finish=finish, output_tokens=tokens, tool_calls=calls)

    def sample(self, request: Request) -> Completion:
        return self._completion


CUT = Always("and then, and then", "length", 256)
THINKING = Always("", "length", 256)
EMPTY = Always("")
REFUSED = Always("I cannot help with that.", "content_filter")
WHOLE = Always("green")


@contextmanager
def executed(home: Path, empty_store: Path, policy: Policy) -> Iterator[tuple[Session, Heard]]:
    heard = Heard()
    with open_session(home, empty_store, policy=policy, reporter=heard, levers=()) as session:
        yield session, heard


def finish(session: Session) -> None:
    """End a run without levers after its only generation."""
    analyze(session, 1)
    improve(session, 1)
    record_stop(session, "generations", "done", find_plateau(session.run.nodes(), [], share=0.0, confidence=0.9))
    seal(session)
    session.run.end("FINISHED")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (CUT, ("8 of 8 cut at 256 tokens", "raise [sampling] max_tokens (256)")),
        (THINKING, ("8 of 8 cut at 256 tokens (8 without any text)", "raise [sampling] max_tokens")),
        (EMPTY, ("8 of 8 empty", "chat template")),
        (REFUSED, ("8 of 8 refused", "prompts or the policy")),
        (Always("cut early", "length", 40), ("8 of 8 cut at 40 tokens", "the task allows 256", "window")),
        (Always("uncounted", "length"), ("8 of 8 cut at 256 tokens", "raise [sampling] max_tokens")),
    ],
)
def test_unusable_replies_are_said_at_the_first_execute_with_what_to_change(
    tmp_path: Path, empty_store: Path, policy: Policy, words: tuple[str, ...]
) -> None:
    with executed(tmp_path, empty_store, policy) as (_, heard):
        (line,) = [line for line in heard.lines if "replies of the policy" in line]
    assert all(word in line for word in words), line


def test_unusable_replies_are_in_every_record_of_the_run(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with executed(tmp_path, empty_store, THINKING) as (session, heard):
        finish(session)
        run = session.run
        generation = run.record.client.get_run(run.generation(1).run_id).data.metrics
        whole = run.record.client.get_run(run.run_id).data.metrics
        assert (generation["train.replies_cut"], generation["train.replies_empty"]) == (1.0, 0.0)
        assert whole["test.replies_cut"] == 1.0
        console = Console(width=200, record=True, highlight=False)
        monkeypatch.setattr(show, "console", console)
        show.print_result(run)
        printed = console.export_text()
        page = report(run)
        result = str(read_result(run))
    for text in (printed, result):
        assert "execute phases: 8 of 8 cut at 256 tokens (8 without any text)" in text
        assert "sealed test: 2 of 2 cut" in text and "max_tokens" in text
    assert "8 of 8 cut at 256 tokens" in page and "2 of 2 cut" in page
    assert len([line for line in heard.lines if "replies of the policy, generation" in line]) == 1


def test_whole_replies_leave_no_line_anywhere(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with executed(tmp_path, empty_store, WHOLE) as (session, heard):
        finish(session)
        console = Console(width=200, record=True, highlight=False)
        monkeypatch.setattr(show, "console", console)
        show.print_result(session.run)
        texts = [console.export_text(), report(session.run), str(read_result(session.run)), *heard.lines]
    assert not [text for text in texts if "replies of the policy" in text]


def turns(*made: Turn, max_tokens: int = 256) -> list[Rollout]:
    found = make_rollout(trainable=False)
    return [replace(found, turns=made, unit=replace(found.unit, sampling=Sampling(1.0, max_tokens)))]


def turn(output: str, finish: str, kind: Any = "chat", **given: Any) -> Turn:
    return Turn(kind, "prompt", output, None, 1.0, finish=finish, **given)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (turn("a", "stop"), Replies(1, limit=256)),
        (turn("a", "length", output_tokens=9), Replies(1, cut=1, longest=9, limit=256)),
        (turn("a", "length", output_ids=(1, 2, 3)), Replies(1, cut=1, longest=3, limit=256)),
        (turn(" \n", "length"), Replies(1, cut=1, silent=1, limit=256)),
        (turn(" \n\t", "stop"), Replies(1, empty=1, limit=256)),
        (turn("", "tool_calls", tool_calls=(ToolCall("1", "f", "{}"),)), Replies(1, limit=256)),
        (turn("", "tool_calls"), Replies(1, empty=1, limit=256)),
        (turn("", "content_filter"), Replies(1, refused=1, limit=256)),
        (turn("", "stop", "choose"), Replies()),
        (turn("a", "something new"), Replies(1, limit=256)),
    ],
)
def test_reply_counts_once_by_how_it_ended(made: Turn, expected: Replies) -> None:
    assert count_replies(turns(made)) == expected


def test_counts_of_several_rollouts_add_up() -> None:
    cut, empty = turn("a", "length", output_tokens=256), turn("", "stop")
    found = count_replies([*turns(cut, empty, cut), *turns(empty, turn("b", "stop"))])
    assert (found.total, found.cut, found.empty, found.unusable) == (5, 2, 2, 4)
    assert str(found) == "2 of 5 cut at 256 tokens, 2 empty" and found.notable
    (line,) = reply_lines(found, "generation 1")
    assert "max_tokens" in line and "chat template" in line
    few = count_replies([*turns(*[turn("b", "stop")] * 19), *turns(empty)])
    assert not few.notable and reply_lines(few, "generation 1")
    assert str(few) == "1 of 20 empty" and not reply_lines(count_replies(turns(turn("a", "stop"))), "x")


def test_evidence_of_agents_has_one_more_line_only_where_replies_are_unusable() -> None:
    plain = SITUATION
    cut = replace(plain.evidence, replies=Replies(40, cut=38, empty=1, longest=256, limit=256))
    before, after = _evidence(plain), _evidence(replace(plain, evidence=cut))
    (more,) = set(after.splitlines()) - set(before.splitlines())
    assert more == "- replies of the policy: 38 of 40 cut at 256 tokens, 1 empty"
    assert set(before.splitlines()) < set(after.splitlines())
    assert ("replies of the policy", str(cut.replies)) in evidence_rows(cut)
    assert not [row for row in evidence_rows(plain.evidence) if "replies" in row[0]]


def test_evidence_counts_rollouts_that_scored() -> None:
    rollouts = [replace(one, turns=(turn("", "stop"),)) for one in (make_rollout("p", 1), make_rollout("q", 2))]
    found = gather(Candidate("harness"), rollouts, confidence=0.9, seed=0)
    assert found.replies == Replies(2, empty=2, limit=256)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as made:
        yield made


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("openai", chat("and then", finish="length"), "cut"),
        ("openai", chat(None, finish="length"), "cut"),
        ("openai", chat(None, finish="content_filter"), "refused"),
        ("openai", chat(None), "empty"),
        ("openai", chat(""), "empty"),
        ("openai", chat("text"), ""),
        ("anthropic", message({"type": "text", "text": "and then"}, stop="max_tokens"), "cut"),
        ("anthropic", message({"type": "text", "text": "No."}, stop="refusal"), "refused"),
        ("anthropic", message({"type": "text", "text": "text"}), ""),
    ],
)
def test_replies_of_both_wires_are_counted(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, kind: str, answer: Answer, expected: str
) -> None:
    monkeypatch.setenv(f"{kind.upper()}_API_KEY", "a-key-of-a-server")
    from sia_core.policy.anthropic_messages import AnthropicPolicy
    from sia_core.policy.openai_chat import OpenAIPolicy

    wire.answer = answer
    spec = parse_spec(f"{kind}:m@{wire.url}{'/v1' if kind == 'openai' else ''}")
    assert spec is not None
    policy = (OpenAIPolicy if kind == "openai" else AnthropicPolicy)(spec, Retry())
    made = policy.sample(Request(({"role": "user", "content": "say"},), Sampling(), 0))
    found = count_replies(turns(turn(made.text, made.finish, output_tokens=made.output_tokens)))
    assert {name: getattr(found, name) for name in ("cut", "empty", "refused")} == {
        name: int(name == expected) for name in ("cut", "empty", "refused")
    }
