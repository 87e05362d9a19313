"""A run written into a record by hand, as the flows would have left it; its texts are the caller's."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sia_core.domain.budget import Budget
from sia_core.domain.candidate import Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import (
    Cost,
    Decision,
    Evidence,
    GateVerdict,
    LadderReport,
    Node,
    RungResult,
)
from sia_core.domain.patch import Block, Edit
from sia_core.domain.plan import Shape
from sia_core.domain.rollout import Failure, Rollout, Split, ToolCall, Turn, Unit, Verdict
from sia_core.domain.stats import Estimate, Gain
from sia_core.record.arms import SCORES
from sia_core.record.generation import GenerationRecord
from sia_core.record.phases import AnalyzeDone, ExecuteDone, ImproveDone, SealedDone, StartDone, StopDone
from sia_core.record.store import Record, RunRecord

CONFIG = RunConfig(
    task="toy",
    generations=2,
    problems=2,
    rollouts=2,
    gate_problems=2,
    gate_rollouts=2,
    test_problems=3,
    test_rollouts=2,
    budget=Budget(rollouts=1000),
)
PROBLEMS = ("p1", "p2", "p3")
SANDBOX = {"tier": "strict", "missing": [], "probe_digest": "f" * 64, "probes": {"fork": "blocked"}}
ENVIRONMENT = {
    "python": "3.11.7",
    "system": "Linux 6.1 x86_64",
    "processor": "a processor",
    "cpus": 2,
    "memory_gb": 8.0,
    "gpus": [],
    "packages": {"sia": "0.1.0"},
}


def make_run(
    store: Record,
    words: str = "plain words",
    *,
    tags: dict[str, str] | None = None,
    final: Sequence[float] = (0.6, 0.5, 0.4),
    finished: bool = True,
    with_generations: bool = True,
    **settings: Any,
) -> RunRecord:
    """Two generations, of which the first is promoted and the second comes to nothing, then the sealed test.

    Args:
        store: to write to.
        words: put wherever a model, a harness or a task may write.
        tags: of the run, beside or in place of the usual ones.
        final: sealed scores of the final candidate, one a problem; the seed has 0.3 of each.
        finished: whether there is a sealed test.
        with_generations: without them it is made in a quarter of the time.
        settings: of the configuration.
    """
    usual = {
        "sia.task": "toy",
        "sia.task_digest": "d" * 64,
        "sia.policy_digest": "e" * 64,
        "sia.version": "0.1.0",
        "sia.sandbox.tier": "strict",
        "sia.sandbox.missing": "",
    }
    run = store.create(CONFIG.model_copy(update=settings), {**usual, **(tags or {})})
    seed, child = harness(words, 1), harness(words, 2)
    for one in (seed, child):
        run.put_harness(one)
    run.put_json(
        "sandbox.json", {"tier": "strict", "missing": [], "probe_digest": "f" * 64, "probes": {"fork": "blocked"}}
    )
    run.put_json("environment.json", ENVIRONMENT)
    start = Node(0, None, Candidate(seed.digest), "seed", promoted=True)
    run.complete(StartDone(node=start))
    if with_generations:
        _promoted(run, seed, child, words)
        _rejected(run, child, words)
    if finished:
        _end(run, final, words)
    return run


def harness(words: str, attempts: int) -> Harness:
    """A harness whose only knob stands at `attempts`."""
    code = f"async def solve(problem, ctx):\n    return {words!r}\n".encode(errors="replace")
    manifest = f'name = "h"\n[knobs.attempts]\nvalue = {attempts}\nrange = [1, 4]\n'.encode()
    return Harness.from_files({"harness.toml": manifest, "agent.py": code})


def play(candidate: Candidate, split: Split, seed: int, score: float, words: str, problem: str = "p1") -> Rollout:
    """A rollout with two turns, the second of which repeats the first, and a tool call."""
    asked = "a long beginning\n" * 40
    turn = Turn(
        "chat", asked + words, words, candidate.adapter, 1.0, finish="tool_calls", prompt_tokens=9, output_tokens=4
    )
    choose = Turn("choose", asked + words + "\nand again", words, None, 1.0, options=(words, "b"))
    return Rollout(
        unit=Unit("t", candidate.harness, "policy", candidate.adapter, split, problem, seed),
        turns=(turn, Turn(**{**vars(choose), "tool_calls": (ToolCall("1", words, words),)})),
        answer={"code": words, "n": 1},
        verdict=Verdict(score, metrics={"mse": 0.5}, feedback=words),
        notes=(words,),
        seconds=0.5,
    )


def failed(candidate: Candidate, seed: int, words: str) -> Rollout:
    """A rollout that failed."""
    unit = Unit("t", candidate.harness, "policy", None, "train", "p2", seed)
    return Rollout(unit=unit, failure=Failure("error", words), notes=(words,), seconds=0.1)


def evidence(candidate: Candidate, words: str) -> Evidence:
    return Evidence(
        candidate=candidate,
        score=Estimate(0.3, 0.2, 0.4, 2, 4),
        best_of=0.5,
        group_size=2,
        mixed=0.5,
        constant=0.5,
        failures={words[:50] or "error": 0.25},
        unscored=0,
        trainable=False,
        examples=(),
    )


def _train(candidate: Candidate, index: int, words: str) -> list[Rollout]:
    base = 100 * index
    played = [play(candidate, "train", base + at, 0.1 * at, words, PROBLEMS[at % 2]) for at in range(4)]
    return [*played, failed(candidate, base + 9, words)]


def _analyzed(
    run: RunRecord, index: int, executed: int, candidate: Candidate, decision: dict[str, Any], words: str
) -> tuple[GenerationRecord, Decision]:
    """Execute and analyze: evidence of five rollouts, and a decision that cites two of them."""
    generation = run.generation(index)
    rollouts = _train(candidate, index, words)
    generation.put_rollouts("train", rollouts)
    generation.complete(ExecuteDone(node=executed, why="the champion", cost=Cost(5, 60, 2.1), shape=Shape(1, 5)))
    cites = (rollouts[0].unit.key, rollouts[4].unit.key)
    made = Decision(parent=executed, reason=words, agent="rules", cites=cites, **decision)
    generation.complete(AnalyzeDone(evidence=evidence(candidate, words), decisions=(made,), cost=Cost()))
    return generation, made


def _promoted(run: RunRecord, seed: Harness, child: Harness, words: str) -> None:
    edits = (Edit(words[:200], blocks=(Block(words, words),)),)
    settings = {
        "lever": "harness",
        "predicted_gain": 0.05,
        "predicted_range": (0.0, 0.1),
        "knobs": {"attempts": 2},
        "edits": edits,
        "hypothesis": words,
        "falsifier": words,
        "category": words[:100],
        "fixes": (words[:100],),
        "refused": (words,),
    }
    before, after = Candidate(seed.digest), Candidate(child.digest)
    generation, decision = _analyzed(run, 1, 0, before, settings, words)
    rungs = (RungResult("static", True, "sound", (words,)), RungResult("minibatch", True, words))
    generation.put_json("ladder.json", asdict(LadderReport(child.digest, rungs)))
    sides = {"gate_parent": (before, 0.3), "gate_child": (after, 0.5)}
    for name, (candidate, score) in sides.items():
        rollouts = [play(candidate, "gate", 7 + at, score + 0.1 * at, words, PROBLEMS[at % 2]) for at in range(4)]
        generation.put_rollouts(name, rollouts)
    gate = GateVerdict(
        Estimate(0.3, 0.2, 0.4, 2, 4),
        Estimate(0.5, 0.4, 0.6, 2, 4),
        Gain(0.2, 0.1, 0.08, 0.32, 2),
        promoted=True,
        reason="the bound lies above 0",
        outcome="promoted",
    )
    node = Node(1, 0, after, "harness", True, gate, decision, Cost(21, 300, 9.0), generation=1)
    generation.complete(ImproveDone(nodes=(node,)), {"sia.promoted": "true"})
    generation.end("FINISHED")
    run.set_tags({"sia.generations_done": "1"})


def _rejected(run: RunRecord, child: Harness, words: str) -> None:
    candidate = Candidate(child.digest)
    settings = {"lever": "weights", "predicted_gain": 0.1, "update": {"algorithm": "dr_grpo"}}
    generation, decision = _analyzed(run, 2, 1, candidate, settings, words)
    named = {"algorithm": "dr_grpo", "backend": "own", "parent_adapter": None}
    spec = {**named, "rounds": 2, "steps": 2, "learning_rate": 1e-4, "rank": 8}
    generation.put_json("update/spec.json", spec)
    for step in range(4):
        generation.log_metrics({"update.reward": 0.1 * step, "update.loss": -0.2 * step, "update.kl": 0.0}, step)
    generation.put_json("update/rounds.json", {"history": [[], []], "stopped": words, "kept": 0, "fallback": None})
    failure = f"no round was better than the parent: {words}"
    node = Node(2, 1, candidate, "weights", False, None, decision, Cost(5, 60, 2.1), failure, generation=2)
    generation.complete(ImproveDone(nodes=(node,)), {"sia.promoted": "false"})
    generation.end("FINISHED")
    run.set_tags({"sia.generations_done": "2"})


def _end(run: RunRecord, final: Sequence[float], words: str) -> None:
    run.complete(StopDone(rule="generations", reason=words, plateau={}))
    scores = {problem: [score, score] for problem, score in zip(PROBLEMS, final, strict=True)}
    run.put_json(
        SCORES, {"seed": {problem: [0.3, 0.3] for problem in PROBLEMS}, "final": scores, "cost": asdict(Cost())}
    )
    mean = sum(final) / len(final)
    run.complete(
        SealedDone(
            node=1,
            candidate=Candidate("h"),
            final=Estimate(mean, mean - 0.1, mean + 0.1, 3, 6),
            seed=Estimate(0.3, 0.2, 0.4, 3, 6),
            gain=Gain(mean - 0.3, mean - 0.35, mean - 0.4, mean - 0.2, 3),
            report={"final": (("figure", words),), "seed": (("figure", 0.5),)},
        ),
    )
    spent = {"rollouts": 40, "tokens": 1000, "dollars": 0.0, "seconds": 30.0, "gpu_seconds": 0.0}
    run.put_json("spending.json", {"roles": {"rollouts": spent}, "wall_seconds": 90.0})
    run.log_metrics({"test.final": mean})
    run.end("FINISHED")
