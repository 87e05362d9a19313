"""Trial of a draft before an agent decides: scores against the parent's, failures by message, transcripts.

Drafts play training problems only, with the seeds of the parent's execution, so the two sides differ by the
harness alone. The allowance counts rollouts and their recorded seconds, so that a resumed conversation gets the
same answers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from sia_core.agents.evidence import scores_by_problem
from sia_core.agents.quote import elide, one_line, quote
from sia_core.agents.transcript import cleaned, short
from sia_core.domain.lineage import DRAFT_ID
from sia_core.domain.rollout import Rollout

_MESSAGES, _MESSAGE, _SHOWN, _PROBLEMS = 8, 400, 3000, 40
_REPLIES, _REPLY = 20, 200
_TIMES = ((1, "under 1 s"), (10, "1 to 10 s"), (60, "10 to 60 s"), (600, "1 to 10 min"))


def coarse_time(seconds: float) -> str:
    """Give a time by its order of magnitude, which is the same when a run is resumed or its agent replayed."""
    return next((text for most, text in _TIMES if seconds < most), "over 10 min")


@dataclass(frozen=True)
class Left:
    """The rest of an agent's allowance for playing drafts, for one decision."""

    rollouts: int
    seconds: float
    """Remaining seconds of rollouts, as recorded, summed over parallel rollouts."""

    def __str__(self) -> str:
        minutes = 2 * ceil(self.seconds / 120)
        time = "no time" if self.seconds <= 0 else "less than 2 min" if minutes == 2 else f"{minutes} min"
        return f"{self.rollouts} rollouts and {time} of rollouts are left for trials"


@dataclass(frozen=True)
class Trial:
    """Result of playing one draft."""

    harness: str
    """Digest of the draft."""
    faults: tuple[str, ...]
    """Reasons why the draft was not played; empty when it was."""
    rollouts: tuple[Rollout, ...]
    compared: tuple[Rollout, ...]
    """Rollouts of the parent on the same problems and seeds; empty for a first harness."""
    left: Left


def describe_trial(trial: Trial) -> str:
    """Describe a trial to the agent."""
    name = f"draft {trial.harness[:DRAFT_ID]}"
    if trial.faults:
        return "\n".join([f"{name} was not played:", *(f"- {fault}" for fault in trial.faults), str(trial.left)])
    parts = [f"{name}: {_summary(trial)}", *_problems(trial), *_replies(trial), *messages(trial.rollouts)]
    parts += _transcripts(trial)
    return "\n".join([*parts, f"{name} can be read, compared and edited from. {trial.left}"])


def messages(rollouts: Sequence[Rollout]) -> list[str]:
    """The most frequent messages of failures and of the verifier, with counts."""
    counts = Counter(text for rollout in rollouts if (text := _message(rollout)))
    return [f"{count} x {one_line(text, _MESSAGE)}" for text, count in counts.most_common(_MESSAGES)]


def replies(rollouts: Sequence[Rollout]) -> tuple[list[str], int]:
    """Group rollouts by replies; return the most frequent groups as rows, and the number of groups.

    A row holds the number of rollouts, their mean score, their failures, and the replies of all turns.
    """
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[" | ".join(one_line(turn.output, 60) for turn in rollout.turns)].append(rollout)
    order = sorted(groups, key=lambda text: (-len(groups[text]), text))[:_REPLIES]
    return [f"{_told(groups[text])} {elide(text, _REPLY) or '-'}" for text in order], len(groups)


def _told(rollouts: Sequence[Rollout]) -> str:
    scores = [rollout.score for rollout in rollouts if rollout.score is not None]
    return f"{len(rollouts)} {fmean(scores) if scores else 0.0:.6g} {failed(rollouts)}"


def kind(rollout: Rollout) -> str:
    """Kind of failure; `refused` by the verifier, or `none`."""
    if rollout.failure is not None:
        return rollout.failure.kind
    return "refused" if rollout.verdict is not None and not rollout.verdict.valid else "none"


def failed(rollouts: Sequence[Rollout]) -> str:
    """Counts of failures by kind, or `none`."""
    failures = Counter(kind for kind in map(kind, rollouts) if kind != "none")
    return ",".join(f"{kind}:{count}" for kind, count in sorted(failures.items())) or "none"


def _message(rollout: Rollout) -> str:
    if rollout.failure is not None:
        return f"{rollout.failure.kind}: {rollout.failure.reason}"
    if rollout.verdict is not None and not rollout.verdict.valid:
        return f"refused: {rollout.verdict.feedback or 'no feedback'}"
    return ""


def _summary(trial: Trial) -> str:
    own, other = scores_by_problem(trial.rollouts), scores_by_problem(trial.compared)
    if not own:
        return "no rollout was scored"
    seconds = fmean(rollout.seconds for rollout in trial.rollouts)
    mean = fmean(fmean(scores) for scores in own.values())
    text = f"{len(trial.rollouts)} rollouts on {len(own)} problems, mean score {mean:.4f}, {coarse_time(seconds)} each"
    common = sorted(own.keys() & other.keys())
    if not common:
        return text
    gains = [fmean(own[problem]) - fmean(other[problem]) for problem in common]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return f"{text}; the parent on the same {fmean(fmean(other[problem]) for problem in common):.4f}, difference \
{fmean(gains):+.4f} (better on {better}, worse on {worse} of {len(common)} problems)"


def _problems(trial: Trial) -> Iterator[str]:
    own, other = scores_by_problem(trial.rollouts), scores_by_problem(trial.compared)
    if not own:
        return
    yield "problem draft parent"
    for problem in sorted(own)[:_PROBLEMS]:
        before = f"{fmean(other[problem]):.4f}" if problem in other else "-"
        yield f"{problem} {fmean(own[problem]):.4f} {before}"


def _replies(trial: Trial) -> Iterator[str]:
    rows, total = replies(trial.rollouts)
    yield quote("\n".join(rows), f"n, mean, failures and replies of the policy, {total} in all", limit=_SHOWN)


def _transcripts(trial: Trial) -> Iterator[str]:
    """The worst and the best rollout; the others by their ids."""
    ranked = sorted(trial.rollouts, key=lambda one: (one.failure is None, one.score or 0.0, one.unit.key))
    for rollout in [*ranked[:1], *ranked[1:][-1:]]:
        yield quote(cleaned(rollout), f"rollout {short(rollout.unit.key)}, clean", limit=_SHOWN)
    yield f"rollouts, worst first: {' '.join(short(rollout.unit.key) for rollout in ranked)}"
