"""Answers to an agent's questions about a run: text of bounded size, with a count of everything read.

Layers, each reached from the one above: overview of a generation, problems, rollouts of a problem, cleaned
transcript, raw transcript by range. All ids are shown short; any unambiguous beginning of an id is accepted.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from sia_core.agents.memory import calibrate, remember
from sia_core.agents.quote import is_mark, one_line, quote
from sia_core.agents.source import Source
from sia_core.agents.transcript import cleaned, outcome, raw, short
from sia_core.agents.trial import Left, failed, kind, messages, replies
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import DRAFT_ID, Draft, Node
from sia_core.domain.patch import unified_diff
from sia_core.domain.rollout import Rollout

RESULT_CHARS = 12_000
"""Maximum characters of text in one answer."""
ROWS = 40
_LEAST_ID = 4
_HELD = 2
"""Generations kept in memory."""

Order = Literal["worst", "best", "longest"]


Ref = int | str
"""An agent's name for a harness: the number of a node, `node 2`, or `draft 0123456789ab`."""


class ReadingError(Exception):
    """Invalid question; the message says what is wrong and what to ask instead."""


@dataclass
class Coverage:
    """Coverage of the training rollouts, for the record: reachable, listed and read."""

    rollouts: int = 0
    characters: int = 0
    listed: set[str] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Rollout id -> characters of it that were shown."""

    def record(self) -> dict[str, Any]:
        """Counts and shares, and what was read of which rollout, as JSON data."""
        return {
            "reachable_rollouts": self.rollouts,
            "reachable_characters": self.characters,
            "listed_rollouts": len(self.listed),
            "read_rollouts": len(self.read),
            "read_characters": sum(self.read.values()),
            "read_share": len(self.read) / self.rollouts if self.rollouts else 0.0,
            "read": dict(sorted(self.read.items())),
        }


class Library:
    """Answers an agent's questions about one run. `latest` is the generation of the current evidence."""

    def __init__(self, source: Source, latest: int) -> None:
        self._source, self._latest = source, latest
        self._held: OrderedDict[int, list[Rollout]] = OrderedDict()
        self.coverage = Coverage()
        for rollout in self._rollouts(latest):
            self.coverage.rollouts += 1
            self.coverage.characters += len(raw(rollout))

    def problems(self, generation: int | None, offset: int, tried: Ref | None = None) -> str:
        """List problems: scores, failures, and the ids of the worst and best rollout of each."""
        groups: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in self._played(generation, tried):
            groups[rollout.unit.problem].append(rollout)
        order = sorted(groups, key=lambda problem: (_mean(groups[problem]), problem))
        rows = [_problem_row(problem, groups[problem]) for problem in order[offset : offset + ROWS]]
        return _table("problem n mean min max failures worst best", rows, offset, len(order))

    def rollouts(
        self,
        generation: int | None,
        *,
        tried: Ref | None = None,
        problem: str | None,
        failure: str | None,
        least: float | None,
        most: float | None,
        order: Order,
        offset: int,
    ) -> str:
        """List rollouts, filtered and ordered."""
        found = [
            rollout
            for rollout in self._played(generation, tried)
            if (problem is None or rollout.unit.problem == problem)
            and (failure is None or failure in (kind(rollout), "any" if kind(rollout) != "none" else ""))
            and (least is None or (rollout.score is not None and rollout.score >= least))
            and (most is None or (rollout.score is not None and rollout.score <= most))
        ]
        found.sort(key=lambda rollout: (_rank(rollout, order), rollout.unit.key))
        rows = [self._rollout_row(rollout) for rollout in found[offset : offset + ROWS]]
        return _table("id problem turns tokens outcome", rows, offset, len(found))

    def read(self, rollout_id: str, view: Literal["clean", "raw"], start: int) -> str:
        """Show a transcript from character `start` on."""
        rollout = self.find(rollout_id)
        text = cleaned(rollout) if view == "clean" else raw(rollout)
        key = rollout.unit.key
        self.coverage.read[key] += max(0, min(len(text) - start, RESULT_CHARS))
        return quote(text, f"rollout {short(key)}, {view}", start=start, limit=RESULT_CHARS)

    def example(self, rollout_id: str, limit: int) -> str:
        """Show the beginning of a cleaned transcript."""
        rollout = self.find(rollout_id)
        key = rollout.unit.key
        text = cleaned(rollout)
        self.coverage.read[key] += min(len(text), limit)
        return quote(text, f"rollout {short(key)}, clean", limit=limit)

    def search(self, text: str, generation: int | None, offset: int, tried: Ref | None = None) -> str:
        """Find the first place of the text in each raw transcript, in any letter case."""
        wanted = text.casefold()
        if not wanted.strip():
            raise ReadingError("give the text to search for")
        hits = []
        for rollout in self._played(generation, tried):
            whole = raw(rollout)
            at = whole.casefold().find(wanted)
            if at >= 0:
                excerpt = one_line(whole[max(0, at - 80) : at + len(text) + 120], 220)
                hits.append((rollout.unit.key, f"{short(rollout.unit.key)} at {at}: {excerpt}"))
        shown = hits[offset : offset + ROWS]
        self.coverage.listed.update(key for key, _ in shown)
        rows = [row for _, row in shown]
        return quote(_table("id place excerpt", rows, offset, len(hits)), "search results", limit=RESULT_CHARS)

    def files(self, ref: Ref) -> str:
        """List names and sizes of a harness's files."""
        harness = self.harness(ref)
        rows = [f"{name} {len(data)} bytes" for name, data in sorted(harness.files.items())]
        return _table("file size", rows, 0, len(rows))

    def file(self, ref: Ref, name: str, start: int) -> str:
        """Show the text of one harness file."""
        files = self.harness(ref).files
        if name not in files:
            raise ReadingError(f"no file {name!r} in the harness of {_say(ref)}; files: {', '.join(sorted(files))}")
        text = files[name].decode(errors="replace")
        return quote(text, f"{_say(ref)}, {name}", start=start, limit=RESULT_CHARS)

    def diff(self, before: Ref, after: Ref, start: int) -> str:
        """Show the difference of two harnesses."""
        text = unified_diff(self.harness(before).files, self.harness(after).files)
        title = f"diff of {_say(before)} and {_say(after)}"
        return quote(text or "the same files", title, start=start, limit=RESULT_CHARS)

    def lineage(self, offset: int) -> str:
        """List nodes: parent, lever, predicted gain and outcome of each."""
        nodes = list(self._source.nodes())
        rows = [_node_row(node) for node in nodes[offset : offset + ROWS]]
        text = _table("node parent lever category outcome", rows, offset, len(nodes))
        return quote(text, "lineage", limit=RESULT_CHARS)

    def rejected(self, offset: int) -> str:
        """List decisions that led to no promoted child, newest first, with the reason."""
        nodes = [node for node in reversed(self._source.nodes()) if node.decision and not node.promoted]
        known = {node.harness for node in self._source.nodes()}
        drafts = [draft for draft in reversed(self._source.drafts()) if draft.harness not in known]
        rows = [*(_rejected_row(node, self._frequent(node.draft)) for node in nodes)]
        rows += [_draft_row(draft, self._frequent(draft.harness)) for draft in drafts]
        shown = _table("node or draft, lever, category, why", rows[offset : offset + ROWS], offset, len(rows))
        return quote(shown, "rejected", limit=RESULT_CHARS)

    def update(self, node: int) -> str:
        """Show settings, curve and end of a node's weight update."""
        found = self._source.update(node) if 0 <= node < len(self._source.nodes()) else None
        if found is None:
            raise ReadingError(f"node {node} has no weight update; list_nodes shows levers")
        return quote("\n".join(_update_rows(found)), f"update of node {node}", limit=RESULT_CHARS)

    def history(self, offset: int) -> str:
        """List generations of other runs of this task."""
        rows = [" ".join(f"{name}={value}" for name, value in row.items()) for row in self._source.history()]
        return _table("run generation ...", rows[offset : offset + ROWS], offset, len(rows))

    def memory(self) -> str:
        """List results so far by lever and kind of hypothesis, and the accuracy of predictions."""
        rows = [str(memory) for memory in remember(self._source.nodes())]
        table = _table("lever category ...", rows[:ROWS], 0, len(rows))
        calibration = calibrate(self._source.nodes())
        return table if calibration is None else f"{table}\nPredictions so far: {calibration}"

    def said(self) -> str:
        """List replies of the policy in the latest rollouts: count, mean score, failures of each."""
        rows, total = replies(self._rollouts(self._latest))
        return quote(_table("n mean failures replies", rows, 0, total), "replies", limit=RESULT_CHARS)

    def texts(self) -> Mapping[str, int]:
        """Implement `Source.texts`."""
        return self._source.texts()

    def left(self) -> Left:
        """Implement `Source.left`."""
        return self._source.left()

    def find(self, rollout_id: str) -> Rollout:
        """Find the training rollout whose id begins with `rollout_id`.

        Raises:
            ReadingError: no such rollout, or several.
        """
        if len(rollout_id) < _LEAST_ID:
            raise ReadingError(f"{rollout_id!r} is too short for an id: give at least {_LEAST_ID} characters")
        if is_mark(rollout_id):
            raise ReadingError(
                f"{rollout_id!r} is the mark of a quotation, not an id: the id stands in the quotation's title, "
                "as in <<data MARK: rollout ID, ...>>, and list_rollouts shows ids"
            )
        # Generations in memory first: ids mostly come from the latest generation.
        generations = sorted(self._source.generations(), key=lambda index: index not in self._held)
        digests = {draft.harness for draft in self._source.drafts()} | {node.harness for node in self._source.nodes()}
        for rollouts in chain(map(self._rollouts, generations), map(self._source.draft_rollouts, sorted(digests))):
            found = [rollout for rollout in rollouts if rollout.unit.key.startswith(rollout_id)]
            if len(found) > 1:
                raise ReadingError(f"{len(found)} rollouts have an id that begins with {rollout_id!r}: give more of it")
            if found:
                return found[0]
        raise ReadingError(f"no rollout has an id that begins with {rollout_id!r}; list_rollouts shows ids")

    def _rollout_row(self, rollout: Rollout) -> str:
        self.coverage.listed.add(rollout.unit.key)
        summary = one_line(outcome(rollout), 160)
        return f"{short(rollout.unit.key)} {rollout.unit.problem} {len(rollout.turns)} {rollout.tokens} {summary}"

    def _played(self, generation: int | None, tried: Ref | None) -> Sequence[Rollout]:
        """Return rollouts of an executed candidate, or of a rewrite on the rungs and in trials."""
        if tried is None:
            return self._rollouts(generation)
        found = self._source.draft_rollouts(self.harness(tried).digest)
        if not found:
            raise ReadingError(f"{_say(tried)} played no training rollouts that are kept; list_rejected shows drafts")
        return found

    def _frequent(self, digest: str) -> str:
        return "; ".join(messages(self._source.draft_rollouts(digest))) if digest else ""

    def _rollouts(self, generation: int | None) -> list[Rollout]:
        index = self._latest if generation is None else generation
        if index not in self._held:
            known = self._source.generations()
            if index not in known:
                raise ReadingError(f"no rollouts of generation {index}; there are: {', '.join(map(str, known))}")
            self._held[index] = sorted(self._source.rollouts(index), key=lambda rollout: rollout.unit.key)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(index)
        return self._held[index]

    def candidate(self, node: int) -> Harness:
        """Return the harness of a node's candidate, to which a child's edits apply."""
        nodes = self._source.nodes()
        if not 0 <= node < len(nodes):
            raise ReadingError(f"parent: there is no node {node}; the lineage has 0 to {len(nodes) - 1}")
        return self._source.harness(nodes[node].candidate.harness)

    def harness(self, ref: Ref) -> Harness:
        """Return the harness of a node or a draft; for a node whose rewrite was rejected on a rung, the rewrite.

        Raises:
            ReadingError: no such node or draft, or several.
        """
        kind, _, name = str(ref).strip().rpartition(" ")
        nodes = self._source.nodes()
        if name.isdigit() and kind in ("", "node"):
            if int(name) >= len(nodes):
                raise ReadingError(f"no node {name}: the lineage has 0 to {len(nodes) - 1}")
            return self._source.harness(nodes[int(name)].harness)
        digests = [draft.harness for draft in self._source.drafts()]
        found = {digest for digest in digests if len(name) >= _LEAST_ID and digest.startswith(name)}
        if len(found) != 1:
            known = ", ".join(dict.fromkeys(f"draft {digest[:DRAFT_ID]}" for digest in digests)) or "no drafts"
            raise ReadingError(f"{len(found)} drafts are named {ref!r}; there are nodes 0 to {len(nodes) - 1}, {known}")
        return self._source.harness(found.pop())


def _scores(rollouts: Iterable[Rollout]) -> list[float]:
    return [rollout.score for rollout in rollouts if rollout.score is not None]


def _mean(rollouts: Sequence[Rollout]) -> float:
    scores = _scores(rollouts)
    return sum(scores) / len(scores) if scores else 0.0


def _rank(rollout: Rollout, order: Order) -> tuple[bool, float]:
    if order == "longest":
        return False, -float(rollout.tokens)
    score = rollout.score
    return score is None, 0.0 if score is None else score if order == "worst" else -score


def _problem_row(problem: str, rollouts: Sequence[Rollout]) -> str:
    ranked = sorted(rollouts, key=lambda rollout: (_rank(rollout, "worst"), rollout.unit.key))
    scores = _scores(rollouts)
    failures = failed(rollouts)
    best = next((rollout for rollout in reversed(ranked) if rollout.score is not None), ranked[0])
    span = f"{min(scores):.6g} {max(scores):.6g}" if scores else "- -"
    ids = f"{short(ranked[0].unit.key)} {short(best.unit.key)}"
    return f"{problem} {len(rollouts)} {_mean(rollouts):.6g} {span} {failures} {ids}"


def _node_row(node: Node) -> str:
    category = node.decision.category if node.decision else ""
    return f"{node.index} {node.parent} {node.lever} {category or '-'} {one_line(describe(node), 400)}"


def describe(node: Node) -> str:
    """Describe the outcome of a node: its gate verdict, or the reason why there was no child."""
    predicted = f"predicted {node.decision.predicted_gain:+.4g}; " if node.decision else ""
    if node.failure:
        return f"{predicted}no child: {node.failure}"
    if node.gate is None:
        return "the seed" if node.parent is None else "no lever was pulled"
    outcome_ = "promoted" if node.promoted else "not promoted"
    looks = f" ({node.gate.outcome} after {node.gate.looks} of {node.gate.most_looks} looks)"
    return f"{predicted}{outcome_}, gain at the gate {node.gate.gain}{looks}"


def _rejected_row(node: Node, frequent: str) -> str:
    assert node.decision is not None
    refused = f"; refused before: {'; '.join(node.decision.refused)}" if node.decision.refused else ""
    why = node.failure or (node.gate.reason if node.gate else "no lever was pulled")
    tried = node.decision.hypothesis or node.decision.reason
    said = f"{why}{refused}{f'; its rollouts: {frequent}' if frequent else ''}. Tried: {tried}"
    return f"node {node.index}, {node.lever}, {node.decision.category or '-'}, {one_line(said, 900)}"


def _draft_row(draft: Draft, frequent: str) -> str:
    came = draft.failure or ("tried, not submitted" if draft.origin == "tried" else "submitted, not decided on")
    said = f"{came}{f'; its rollouts: {frequent}' if frequent else ''}. Tried: {draft.hypothesis or '-'}"
    return f"{draft.name} of generation {draft.generation}, harness, {draft.category or '-'}, {one_line(said, 900)}"


def _update_rows(update: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings, a row for each step, and the reason of the end."""
    yield "settings: " + ", ".join(f"{name}={value}" for name, value in sorted(update["spec"].items()) if value)
    for number, steps in enumerate(update.get("history", ()), 1):
        for step, metrics in enumerate(steps, 1):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
            yield f"round {number} step {step}: {shown}"
    yield f"ended: {update.get('stopped') or 'all rounds were made'}; kept: round {update.get('kept', 'none')}"


def _say(ref: Ref) -> str:
    return f"node {ref}" if str(ref).isdigit() else str(ref)


def _table(header: str, rows: Sequence[str], offset: int, total: int) -> str:
    shown = f"rows {offset + 1} to {offset + len(rows)} of {total}" if rows else f"no rows of {total} from {offset}"
    return "\n".join([f"{header} ({shown})", *rows])[:RESULT_CHARS]
