"""Weight lever: train a LoRA adapter in on-policy rounds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.errors import SiaError
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Cost, Decision, Node
from sia_core.domain.rollout import Rollout
from sia_core.domain.usage import Usage
from sia_core.loop.anchors import check_anchors
from sia_core.loop.harness_lever import Pulled
from sia_core.loop.rollouts import cost_of, is_stale, plan_groups, roll_out, training_rollouts
from sia_core.loop.session import Session
from sia_core.policy.registry import base_directory
from sia_core.record.generation import GenerationRecord
from sia_core.record.rounds import put_round, take_round
from sia_core.record.tags import Tag
from sia_core.weights.groups import batch_digest
from sia_core.weights.launcher import TrainerHandle, round_folder
from sia_core.weights.proposal import ProposalError, settle
from sia_core.weights.serving import why_not_served
from sia_core.weights.spec import UpdateSpec, refuse
from sia_core.weights.stopping import best_round, stop_reason


def untrainable(session: Session, decision: Decision, parent: Node, evidence: Sequence[Rollout]) -> list[str]:
    """List the reasons why an update cannot be trained."""
    if not session.engine.policy.trainable:
        return [f"policy {session.config.policy} cannot be trained: it records no token ids or takes no adapter"]
    # The batch of another pair is not known yet: it is judged when it is there.
    stale = is_stale(evidence, parent.candidate)
    try:
        spec = update_spec(session, decision, parent, evidence)
    except ProposalError as error:
        return [str(error)]
    reason = None if decision.lever == "both" or stale else refuse(evidence, spec)
    return [] if reason is None else [reason]


def refuse_batch(session: Session, decision: Decision, parent: Node, batch: Sequence[Rollout]) -> str | None:
    """Return why these rollouts cannot train the requested update, or None."""
    try:
        return refuse(batch, update_spec(session, decision, parent, batch))
    except ProposalError as error:
        return str(error)


@dataclass
class _Trained:
    """Results of an update's rounds so far."""

    adapters: list[Adapter] = field(default_factory=list)
    probes: list[tuple[float, ...]] = field(default_factory=list)
    """Logprobs of the probe under each adapter, by the trainer."""
    history: list[list[dict[str, float]]] = field(default_factory=list)
    """Metrics of each step of each round."""
    stopped: str | None = None
    fallback: str | None = None
    failure: str = ""
    """Reason why a round could not be trained; the update then fails, and the run continues."""
    cost: Cost = field(default_factory=Cost)


def pull_weights(
    session: Session, generation: GenerationRecord, decision: Decision, parent: Node, first: Sequence[Rollout]
) -> Pulled:
    """Train an adapter in on-policy rounds; the first round learns from the evidence's rollouts."""
    spec = update_spec(session, decision, parent, first)
    generation.put_json("update/spec.json", asdict(spec))
    generation.set_tags({Tag.BACKEND: spec.backend})
    trained = _train(session, generation, parent.candidate, spec, first)
    if trained.failure:
        return Pulled(None, trained.cost, trained.failure)
    kept = best_round(trained.history, spec)
    generation.put_json(
        "update/rounds.json",
        {
            "history": trained.history,
            "stopped": trained.stopped,
            "kept": kept,
            "fallback": trained.fallback,
            "probe": trained.probes[kept - 1] if kept else (),
        },
    )
    if kept == 0:
        return Pulled(None, trained.cost, f"no round was better than the parent: {trained.stopped}")
    unserved = _unserved(session, parent.candidate, trained, kept, spec.max_gap)
    if unserved is not None:
        return Pulled(None, trained.cost, unserved)
    child = Candidate(parent.candidate.harness, trained.adapters[kept - 1].digest)
    forgotten, cost = check_anchors(session, generation, parent.candidate, child)
    return Pulled(None if forgotten else child, trained.cost + cost, forgotten or "")


def _train(
    session: Session, generation: GenerationRecord, parent: Candidate, spec: UpdateSpec, first: Sequence[Rollout]
) -> _Trained:
    """Train rounds until the spec's number or a reason to stop is reached."""
    trained = _Trained()
    rollouts, resources = list(first), session.task.config.resources
    folder = session.folder / "updates" / spec.id
    with TrainerHandle(
        base_directory(session.config.policy),
        spec,
        session.run.adapter(parent.adapter),
        folder,
        threads=session.config.threads,
        device=resources.train_device,
        gpus=resources.train_gpus,
    ) as trainer:
        for number in range(1, spec.rounds + 1):
            if trained.adapters:
                now = Candidate(parent.harness, trained.adapters[-1].digest)
                rollouts = fresh_rollouts(session, generation, now, number)
                trained.cost += cost_of(rollouts)
            session.reporter.progress("training", number - 1, spec.rounds)
            take_round(session.run, generation, round_folder(folder, number))
            try:
                began = time.monotonic()
                adapter, steps = trainer.round(number, rollouts)
                took = time.monotonic() - began
                training = Usage(seconds=took, gpu_seconds=took * resources.train_gpus)
                session.ledger.spend(f"update/{spec.id}/{number}", "training", training)
            except SiaError as error:
                trained.failure = f"update round {number}: {error.what}"
                break
            trained.adapters.append(adapter)
            trained.probes.append(tuple(trainer.manifest["probe"]))
            trained.history.append(steps)
            session.reporter.progress("training", number, spec.rounds)
            _record_round(session, generation, spec, adapter, steps, number)
            put_round(generation, round_folder(folder, number))
            trained.stopped = stop_reason(trained.history, spec)
            if trained.stopped is not None:
                session.reporter.progress("training", spec.rounds, spec.rounds)
                break
        trained.fallback = trainer.manifest.get("fallback")
    if trained.fallback is not None:
        session.reporter.say(f"trained on single rollouts, without shared prompts: {trained.fallback}")
    return trained


def _unserved(session: Session, parent: Candidate, trained: _Trained, kept: int, limit: float) -> str | None:
    """Return why the engine seems not to serve the adapter of round `kept`, or None."""
    probe = session.engine.policy.probe
    others = {f"round {number}": found for number, found in enumerate(trained.probes, 1)}
    others["the parent"] = probe(session.run.adapter(parent.adapter))
    served = probe(session.run.adapter(trained.adapters[kept - 1].digest))
    return why_not_served(served, trained.probes[kept - 1], others, limit)


def _record_round(
    session: Session,
    generation: GenerationRecord,
    spec: UpdateSpec,
    adapter: Adapter,
    steps: Sequence[Mapping[str, float]],
    number: int,
) -> None:
    """Store a round's adapter as a LoggedModel, with the metrics of its steps."""
    model = session.run.put_adapter(adapter, {**asdict(spec), "round": number}, generation)
    for offset, metrics in enumerate(steps):
        named = {f"update.{name}": value for name, value in metrics.items()}
        generation.log_metrics(named, (number - 1) * spec.steps + offset, model)


def update_spec(session: Session, decision: Decision, parent: Node, first: Sequence[Rollout]) -> UpdateSpec:
    """Specify the weight update that a decision asks for, starting with the rollouts `first`.

    Raises:
        ProposalError: a setting is invalid, or no algorithm fits.
    """
    adapter = parent.candidate.adapter
    settings = settle(first, session.task.config.update.settings, decision.update, fresh=adapter is None)
    return UpdateSpec(
        **settings,
        batch=batch_digest(first),
        parent_adapter=adapter,
        temperature=session.task.sampling.temperature,
        seed=derive_seed(session.config.seed, "update", parent.index, parent.candidate.harness) % 2**31,
        reason=decision.reason,
        expected_gain=decision.predicted_gain,
    )


def _earlier(session: Session, generation: GenerationRecord, number: int) -> list[Rollout]:
    """Return the training rollouts before round `number` of this generation's update, the same after a resume."""
    names = [name for name in generation.training() if name != "train" and int(name.removeprefix("round_")) < number]
    own = [rollout for name in ("train", *names) for rollout in generation.rollouts(name)]
    return [*training_rollouts(session, generation.index), *own]


def fresh_rollouts(session: Session, generation: GenerationRecord, candidate: Candidate, number: int) -> list[Rollout]:
    """Roll a candidate out for a round of an update, with problems and seeds that no round had before."""
    earlier = _earlier(session, generation, number) if session.config.reuse_states else []
    units = plan_groups(
        session, candidate, generation.index - 1 + number, f"{generation.index}/round/{number}", earlier
    )
    rollouts = roll_out(session, candidate, units, f"rollouts for round {number}")
    generation.put_rollouts(f"round_{number}", rollouts)
    return rollouts
