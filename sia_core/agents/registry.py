"""Feedback-Agents by spec. A missing key is found here, before anything is spent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.agents.command.agent import CommandAgent
from sia_core.agents.command.first import CommandWriter
from sia_core.agents.command.spec import PREFIX, Commanding, parse_command
from sia_core.agents.conversation import Allowance
from sia_core.agents.llm import LlmAgent
from sia_core.agents.meta import FirstWriter, MetaAgent
from sia_core.agents.prices import Price, find_price, require_price
from sia_core.agents.protocol import FeedbackAgent
from sia_core.agents.record import Keep
from sia_core.agents.recorded import RecordedAgent, RecordedFirst, is_recorded, load_recording
from sia_core.agents.rules import AlternateAgent, RulesAgent
from sia_core.agents.tracing import NO_TRACE, Trace
from sia_core.domain.errors import PolicyError, SiaError, UsageError
from sia_core.domain.near import near_spec
from sia_core.domain.task import Task
from sia_core.host.progress import SILENT, Reporter
from sia_core.policy.dialect import Learner
from sia_core.policy.fitting import FittingPolicy
from sia_core.policy.log import LoggedPolicy, ReplayPolicy, read_log
from sia_core.policy.protocol import Policy
from sia_core.policy.registry import load_policy
from sia_core.policy.spec import named_path, parse_spec

RULES = "rules"
WITHOUT_MODEL: Mapping[str, Callable[[], FeedbackAgent]] = {RULES: RulesAgent, "alternate": AlternateAgent}
"""Agents that ask no language model."""
_REPLAY = "replay:"
_KINDS = ("openai", "anthropic")
_HINT = (
    "use rules or alternate (no language model), anthropic:MODEL, openai:MODEL[@URL], command:CMD, recorded, "
    "recorded:FILE or replay:FILE"
)

History = list[dict[str, Any]]


def check_agent(spec: str, dollars: float | None) -> None:
    """Refuse an agent that could not work, before anything is spent.

    Raises:
        UsageError: unknown spec, or a limit in dollars for a model without a price.
        PolicyError: no key in the environment, or an invalid replay file.
    """
    if spec in WITHOUT_MODEL or is_recorded(spec):  # `agents.fit` checks recorded decisions.
        return
    if spec.startswith(_REPLAY):
        read_log(named_path(spec))
        return
    if spec.startswith(PREFIX):
        parse_command(spec)
        if dollars is not None:
            what, hint = "the cost of a command is unknown, so a limit in dollars could not be kept", "leave it out"
            raise UsageError(what, where="--agent", hint=f"{hint}; --agent-minutes bounds its time")
        return
    try:
        server = parse_spec(spec)
        if server is None or server.kind not in _KINDS:
            known = (*WITHOUT_MODEL, "recorded", "recorded:", _REPLAY, PREFIX, *(f"{kind}:" for kind in _KINDS))
            raise UsageError(f"unknown agent {spec!r}{near_spec(spec, known)}", hint=_HINT)
        server.check()
    except SiaError as error:
        error.where = "--agent"
        raise
    if dollars is not None:
        require_price(server, where="--agent", limit="--agent-dollars")


@dataclass(frozen=True)
class Agents:
    """The agents of one run; both use one model."""

    feedback: FeedbackAgent
    meta: FirstWriter | None
    """None for agents without a language model, which write no harness."""


def asks_model(spec: str) -> bool:
    """Return True if an agent uses a language model."""
    return spec not in WITHOUT_MODEL and not is_recorded(spec)


def load_agents(
    spec: str,
    task: Task,
    *,
    allowance: Allowance,
    silence_s: float,
    log: Path,
    history: Callable[[], History],
    keep: Keep,
    trace: Trace = NO_TRACE,
    reporter: Reporter = SILENT,
    means: Commanding | None = None,
    learner: Learner | None = None,
) -> Agents:
    """Load the agents of a spec.

    Args:
        silence_s: timeout in seconds for a model's server that sends nothing.
        task: the run's task, with which recorded decisions may ship.
        log: file of a model's replies, so that none is paid for twice.
        history: other runs as the agent sees them, kept in the log for replays.
        keep: receives the record of each conversation.
        reporter: receives the reply that is awaited.
        means: means of a command; for `command:` only.
        learner: what is known of the model's server.
    """
    if spec in WITHOUT_MODEL:
        return Agents(WITHOUT_MODEL[spec](), None)
    if is_recorded(spec):
        recording = load_recording(spec, task)
        return Agents(RecordedAgent(spec, recording), RecordedFirst(spec, recording))
    check_agent(spec, allowance.dollars)
    if spec.startswith(PREFIX):
        assert means is not None
        return Agents(
            CommandAgent(spec, means, keep=keep, trace=trace), CommandWriter(spec, means, keep=keep, trace=trace)
        )
    model, price = _model(spec, silence_s, log, history, reporter, learner)
    return Agents(
        LlmAgent(spec, model, allowance=allowance, price=price, keep=keep, trace=trace, reporter=reporter),
        MetaAgent(spec, model, allowance=allowance, price=price, keep=keep, trace=trace, reporter=reporter),
    )


def _model(
    spec: str, silence_s: float, log: Path, history: Callable[[], History], reporter: Reporter, learner: Learner | None
) -> tuple[Policy, Price | None]:
    if spec.startswith(_REPLAY):
        return ReplayPolicy(spec, named_path(spec)), None
    server = parse_spec(spec)
    assert server is not None
    model = load_policy(spec, silence_s=silence_s, learner=learner)
    model = FittingPolicy(model, reporter.say, getattr(model, "window", lambda: None))
    return LoggedPolicy(model, log, {"history": history()}), find_price(server)


def replayed_history(spec: str) -> History | None:
    """Return the other runs as a replayed agent saw them; None for an agent that is not replayed.

    Raises:
        PolicyError: the file is not a log of an agent's replies.
    """
    if not spec.startswith(_REPLAY):
        return None
    header: Mapping[str, Any] = read_log(named_path(spec))[0]
    if "history" not in header:
        what = "holds replies of a policy, not of an agent"
        raise PolicyError(what, where=str(named_path(spec)), hint="replay the agent.jsonl of a run")
    return list(header["history"])
