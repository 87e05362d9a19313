"""Write the model card: README.md of an export, in the form that model hubs read.

Figures come from the record. In texts of agents (reasons, knobs, file names) markdown and HTML have no effect.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sia_core.domain.config import RunConfig
from sia_core.domain.lineage import Node
from sia_core.domain.task import Task
from sia_core.export.manifest import ADAPTER, HARNESS, Interval, Manifest
from sia_core.policy.vllm_wire import RANKS
from sia_core.record.phases import SealedDone
from sia_core.report.table import COLUMNS, lineage_rows, report_rows, sealed_lines, spent_lines

_HUB = {"smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Name and licence on the hub of each policy that ships."""
_ACTIVE = re.compile(r"[\\`*|<>#~&]|(?<=\])[(\[]|!(?=\[)")
_SECTION = re.compile(r"^## .*$", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """Data from which a card is written."""

    manifest: Manifest
    config: RunConfig
    nodes: Sequence[Node]
    test: SealedDone
    """Phase `test` of the run."""
    spending: Mapping[str, Any] | None
    """The run's spending.json, if it kept one."""
    task: Task
    rank: int | None = None
    """Rank of the adapter; None for the bare policy."""


def write_card(card: Card) -> str:
    """Format the card as markdown."""
    parts = (_front, _what, _use, _scores, _lineage, _cost, _data, _licences, _limits, _again)
    return "\n\n".join("\n".join(part(card)) for part in parts) + "\n"


def _front(card: Card) -> Iterator[str]:
    manifest = card.manifest
    yield "---"
    if manifest.adapter:
        yield "library_name: peft"
    if manifest.policy.spec in _HUB:
        name, licence = _HUB[manifest.policy.spec]
        yield f"base_model: {name}"
        yield f"license: {licence}"
    else:
        yield "license: other"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("sia", "agent", *(["lora"] if manifest.adapter else [])))
    yield "---"


def _what(card: Card) -> Iterator[str]:
    manifest = card.manifest
    under = f"an adapter ({manifest.adapter[:12]})" if manifest.adapter else "no adapter"
    yield f"# {manifest.run}: {_plain(manifest.task.title)}"
    yield ""
    yield (
        f"A task agent for the task `{manifest.task.name}`: a harness ({manifest.harness[:12]}) that drives the policy "
        f"`{_code(manifest.policy.spec)}` with {under}. It is node {manifest.node} of the lineage of run "
        f"`{manifest.run}`, made by SIA {manifest.sia}."
    )
    yield ""
    yield f"- `{HARNESS}/`: code, prompts and knobs; it runs in SIA's sandbox."
    if manifest.adapter:
        yield f"- `{ADAPTER}/`: LoRA weights as PEFT lays them out."
    yield "- `sia.json`: digests, and the settings of the sealed test. The base model is not included."


def _use(card: Card) -> Iterator[str]:
    yield "## Use"
    yield "```"
    yield f"sia eval . {card.manifest.task.name}    # the sealed test again; TASK is a name or the task's directory"
    yield "sia serve .    # an OpenAI-compatible endpoint on this machine"
    yield "```"
    if card.manifest.adapter:
        yield "The adapter without the harness, which was not scored:"
        yield "```python"
        yield "from peft import PeftModel"
        yield f'model = PeftModel.from_pretrained(base_model, "{ADAPTER}")'
        yield "```"
        yield "```"
        rank = next((rank for rank in RANKS if rank >= (card.rank or 1)), RANKS[-1])
        yield f"vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules winner={ADAPTER} \\"
        yield "    --dtype float32    # on a GPU float16; bfloat16 rounds much of an adapter away"
        yield "```"
        yield f"BASE is the model whose files have the digest {card.manifest.policy.base or 'unknown'}."
        if card.manifest.policy.spec == "smollm2":
            yield "That is what `sia run` keeps under `$SIA_HOME/models`: the hub's model, dequantised from 4 bits."


def _scores(card: Card) -> Iterator[str]:
    test, manifest = card.manifest.test, card.manifest
    low, high = manifest.task.score_range
    yield "## Scores"
    yield (
        f"Metric: {_plain(manifest.task.metric)}; from {low:g} to {high:g}, more is better. Sealed test: problems "
        f"that decided nothing before, scored once, {test.rollouts} rollouts each; two-sided {test.confidence:.0%} "
        "intervals over problems."
    )
    yield ""
    yield from _table(
        ("candidate", "score", "interval"),
        [
            ("this one", f"{test.final.mean:.4f}", _span(test.final)),
            ("the run's first harness, bare policy", f"{test.first.mean:.4f}", _span(test.first)),
            ("gain, paired", f"{test.gain.mean:+.4f}", _span(test.gain)),
        ],
    )
    yield ""
    yield from sealed_lines(card.test, test.confidence)[-1:]
    rows = report_rows(card.test)
    if rows:
        yield ""
        yield "The task's own figures of these rollouts:"
        yield ""
        yield from _table(tuple(rows[0]), [tuple(row.values()) for row in rows])


def _lineage(card: Card) -> Iterator[str]:
    yield "## Lineage"
    yield (
        "All candidates that were tried. Scores and gains here are on gate problems of each generation. They helped to "
        "choose, so they are too good on average: quote the sealed test."
    )
    yield ""
    rows = lineage_rows(card.nodes)
    yield from _table(COLUMNS, [tuple(row[column] for column in COLUMNS) for row in rows])


def _cost(card: Card) -> Iterator[str]:
    yield "## Cost"
    if card.spending is None:
        yield "The run recorded no spending."
        return
    yield from (f"- {line}" for line in spent_lines(card.spending, card.config.budget))


def _data(card: Card) -> Iterator[str]:
    yield "## Data"
    yield (
        f"Training rollouts were played on the split `train` of task `{card.manifest.task.name}` "
        f"(digest {card.manifest.task.digest[:12]}) only. Declared data of the task:"
    )
    yield ""
    declared = card.task.config.data
    yield from [f"- {_plain(name)}: {_plain(value)}" for name, value in declared.items()] or ["- none"]
    for section in _sections(card.task, ("data",)):
        yield ""
        yield f"From the task's README:\n\n{section}"


def _licences(card: Card) -> Iterator[str]:
    spec = card.manifest.policy.spec
    yield "## Licences"
    if spec in _HUB:
        name, licence = _HUB[spec]
        yield f"- The base model {name} is under {licence}; an adapter is a work derived from it."
    else:
        yield f"- The base model `{_code(spec)}` has a licence that SIA does not know; an adapter derives from it."
    yield "- The harness began as the task's own, or was written by a model: see the task's licence."
    yield "- Data: see above. SIA checks digests, not permissions."
    for section in _sections(card.task, ("licence", "license")):
        yield ""
        yield f"From the task's README:\n\n{section}"


def _limits(card: Card) -> Iterator[str]:
    yield "## Limits"
    yield "- The scores hold for this task's problems, and for harness, adapter and policy together."
    yield "- The verifier is the task's. A flaw of the verifier that a candidate exploits counts as skill."
    yield (
        f"- Local policies repeat bit for bit on one machine, with {card.manifest.policy.threads} threads and batches "
        f"of {card.manifest.policy.batch}; another CPU may round differently. Models behind a server do not repeat."
    )
    if card.manifest.task.shares_files:
        yield "- The harness reads files that the task shares with it; this export does not include them."


def _again(card: Card) -> Iterator[str]:
    config = card.config.model_dump(mode="json", exclude={"task", "budget"})
    yield "## The run's configuration"
    yield "```json"
    yield json.dumps(config, indent=1).replace("```", "'''")
    yield "```"


def _sections(task: Task, words: Sequence[str]) -> Iterator[str]:
    """Yield the bodies of sections of the task's README whose headings contain one of the words."""
    file = task.path / "README.md"
    text = file.read_text(errors="replace") if file.is_file() else ""
    headings = [*_SECTION.finditer(text)]
    for number, heading in enumerate(headings):
        end = headings[number + 1].start() if number + 1 < len(headings) else len(text)
        if any(word in heading.group().lower() for word in words):
            yield text[heading.end() : end].strip()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows)


def _span(interval: Interval) -> str:
    return f"[{interval.low:.4f}, {interval.high:.4f}]"


def _plain(text: str) -> str:
    """Put a text on one line, with markdown and HTML escaped."""
    one_line = " ".join(text.split())
    return _ACTIVE.sub(lambda found: f"&#{ord(found.group())};", one_line)


def _code(text: str) -> str:
    """Change a text so that it stays inside a code span."""
    return " ".join(text.replace("`", "'").split())
