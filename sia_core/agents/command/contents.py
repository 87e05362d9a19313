"""The files for a command: everything that language-model agents read with tools, as text of bounded size.

Texts of models are quoted, so that a transcript cannot imitate the page that shows it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files as package_files
from typing import Any

from sia_core.agents.command.desk import HARNESS
from sia_core.agents.conversation import ATTEMPTS
from sia_core.agents.library import Library
from sia_core.agents.meta import Brief
from sia_core.agents.opening import opening
from sia_core.agents.protocol import Situation
from sia_core.agents.quote import RULE, one_line, quote
from sia_core.agents.schema import describe_problems
from sia_core.agents.source import Materials, Source
from sia_core.agents.submission import Submission, describe_update
from sia_core.agents.transcript import cleaned, outcome, short
from sia_core.agents.trial import Left
from sia_core.agents.trying import listed
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Node
from sia_core.domain.rollout import Rollout

APART = ("edits", "base")
"""Fields of a submission that the directory harness/ replaces."""
_ROLLOUTS, _ROLLOUT, _NODES, _DRAFTS = 400, 24_000, 30, 20
_TEXT_BYTES, _PROBLEMS = 4 << 20, 200

Contents = Iterator[tuple[str, bytes]]


def decision_contents(situation: Situation, library: Library, source: Source) -> Contents:
    """All that is laid out for one decision."""
    updates = describe_update(situation.updates) or "none: this policy cannot be trained"
    yield (
        "README.md",
        _page("command")
        .format(
            metric=situation.metric,
            executed=situation.executed,
            levers=", ".join(situation.levers),
            updates=updates,
            rounds=ATTEMPTS,
            rule=RULE,
        )
        .encode(),
    )
    yield "TASK.md", situation.task.encode()
    yield "REFERENCE.md", situation.reference.encode()
    yield "EVIDENCE.md", opening(situation, library).encode()
    yield "schema.json", json.dumps(decision_schema(), indent=1).encode()
    yield "lineage.jsonl", b"".join(json.dumps(_row(node)).encode() + b"\n" for node in situation.nodes)
    yield from _harness(HARNESS, situation.harness)
    for node in situation.nodes[-_NODES:]:
        yield from _harness(f"harnesses/node_{node.index}", source.harness(node.candidate.harness))
    for draft in source.drafts()[-_DRAFTS:]:
        yield from _harness(f"drafts/{short(draft.harness)}", source.harness(draft.harness))
    yield from _rollouts(source.rollouts(situation.generation))
    publics = [(name, source.problem(name)) for name in situation.problems]
    yield from _problems((name, public) for name, public in publics if public is not None)
    yield from _texts(source)


def first_contents(brief: Brief, left: Left) -> Contents:
    """Yield the files for a first harness."""
    page = _page("command_first").format(metric=brief.metric, left=left, rounds=ATTEMPTS, rule=RULE)
    ids = listed([problem.id for problem in brief.problems])
    yield "README.md", page.encode()
    yield "TASK.md", brief.task.encode()
    yield "REFERENCE.md", brief.reference.encode()
    yield "PROBLEMS.md", f"{describe_problems(brief.problems)}\nIds: {ids}\n".encode()
    yield "schema.json", json.dumps(FIRST_SCHEMA, indent=1).encode()
    yield from _problems((problem.id, problem.public) for problem in brief.problems[:_PROBLEMS])
    yield from _texts(brief.materials)


FIRST_SCHEMA = {
    "type": "object",
    "properties": {"reasoning": {"type": "string", "description": "how it works, and why so"}},
    "required": ["reasoning"],
    "additionalProperties": False,
}


def decision_schema() -> dict[str, Any]:
    """Schema of decision.json: a submission without edits, which are the changes in harness/."""
    schema = Submission.model_json_schema()
    schema["properties"] = {name: one for name, one in schema["properties"].items() if name not in APART}
    schema.pop("$defs", None)
    schema["description"] = "decision.json"
    return schema


def _row(node: Node) -> dict[str, Any]:
    """Return a node without the texts of its edits, whose result is in harnesses/."""
    row = asdict(node)
    if row["decision"] is not None:
        row["decision"]["edits"] = [edit["file"] for edit in row["decision"]["edits"]]
    return row


def _page(name: str) -> str:
    return (package_files("sia_core.agents") / "prompts" / f"{name}.md").read_text()


def _harness(folder: str, harness: Harness) -> Contents:
    for name, data in harness.files.items():
        yield f"{folder}/{name}", data


def _rollouts(rollouts: Sequence[Rollout]) -> Contents:
    order = sorted(rollouts, key=lambda one: (one.failure is None, one.score or 0.0, one.unit.key))
    rows = [f"{short(one.unit.key)} {one.unit.problem} {one_line(outcome(one), 160)}" for one in order]
    yield "rollouts/INDEX.md", ("\n".join(["id problem outcome", *rows]) + "\n").encode()
    for one in order[:_ROLLOUTS]:
        name = short(one.unit.key)
        yield f"rollouts/{name}.md", quote(cleaned(one), f"rollout {name}, clean", limit=_ROLLOUT).encode()


def _problems(problems: Iterable[tuple[str, Mapping[str, Any]]]) -> Contents:
    for number, (name, public) in enumerate(problems):
        file = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80] or "problem"
        text = json.dumps({"id": name, "public": public}, indent=1, ensure_ascii=False)
        yield f"problems/{number:03d}-{file}.json", text.encode(errors="replace")


def _texts(materials: Materials) -> Contents:
    room = _TEXT_BYTES
    for name, size in materials.texts().items():
        if size <= room:
            room -= size
            yield f"texts/{name}", materials.text(name)
