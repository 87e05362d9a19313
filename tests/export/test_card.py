"""The model card holds figures of the record and no active content."""

from dataclasses import replace
from pathlib import Path

from sia_core.domain.candidate import Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.lineage import Decision, Node
from sia_core.domain.stats import Estimate, Gain
from sia_core.domain.task import Task
from sia_core.export.card import Card, write_card
from sia_core.export.manifest import Export, Interval
from sia_core.record.phases import SealedDone
from sia_core.report.table import COLUMNS
from tests.export.makers import make_export
from tests.factories import TOY

HOSTILE = "<script>alert(1)</script> | ![x](http://evil) [y](javascript:z) `a`\n# heading"


def facts(folder: Path, base: str | None = None) -> Card:
    """Return the card of a run with a rewrite by a hostile agent."""
    manifest = Export.load(make_export(folder, base=base)).manifest
    final, seed, gain = (Interval(mean=mean, low=mean - 0.1, high=mean + 0.1) for mean in (0.5, 0.25, 0.2))
    test = manifest.test.model_copy(update={"final": final, "first": seed, "gain": gain})
    manifest = manifest.model_copy(update={"test": test, "node": 1})
    candidate = Candidate(manifest.harness, manifest.adapter)
    decision = Decision("harness", 0, HOSTILE, agent="x", knobs={HOSTILE: HOSTILE})
    nodes = [
        Node(0, None, candidate, "seed", promoted=True),
        Node(1, 0, candidate, "harness", promoted=True, decision=decision, failure=HOSTILE, generation=1),
    ]
    phase = SealedDone(
        node=1,
        candidate=candidate,
        final=Estimate(0.5, 0.4, 0.6, 3, 6),
        seed=Estimate(0.25, 0.15, 0.35, 3, 6),
        gain=Gain(0.2, 0.1, 0.1, 0.3, 3),
        report={"final": (("figure", HOSTILE),), "seed": (("figure", 1.5),)},
    )
    config = RunConfig(
        task=TOY,
        generations=1,
        problems=1,
        rollouts=1,
        gate_problems=2,
        gate_rollouts=1,
        test_problems=3,
        test_rollouts=2,
    )
    return Card(manifest, config, nodes, phase, None, Task.load(TOY))


def test_card_states_scores_and_the_policy_measured(tmp_path: Path) -> None:
    card = write_card(facts(tmp_path, base="ab" * 32))
    for words in ("0.5000", "[0.4000, 0.6000]", "0.2500", "+0.2000", "two-sided 90%", "worth of the colour"):
        assert words in card, words
    assert "library_name: peft" in card and "vllm serve" in card and "PeftModel" in card and "ab" * 32 in card
    assert "`scripted` has a licence that SIA does not know" in card
    assert "The run recorded no spending." in card


def test_bare_policy_has_no_adapter_to_load(tmp_path: Path) -> None:
    card = write_card(facts(tmp_path))
    assert "PeftModel" not in card and "library_name" not in card and "with no adapter" in card


def test_texts_of_agents_do_nothing(tmp_path: Path) -> None:
    told = facts(tmp_path)
    policy = told.manifest.policy.model_copy(update={"spec": HOSTILE})
    manifest = told.manifest.model_copy(update={"policy": policy})
    card = write_card(replace(told, manifest=manifest))
    tables = "\n".join(line for line in card.splitlines() if line.startswith("|"))
    assert "<script>" not in tables and "](" not in tables and "&#60;script&#62;" in tables
    assert "\n# heading" not in card
    rows = [line for line in tables.splitlines() if line.startswith("| 1 ")]
    assert len(rows) == 1 and rows[0].count(" | ") == len(COLUMNS) - 1  # No cell makes cells of its own.
