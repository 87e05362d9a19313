"""The lineage in terminals of several widths."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from sia_core.cli.show import WIDE, lineage_table
from sia_core.domain.lineage import Node
from tests.report.test_decided import DECISION, GATE, NODES

LONG = replace(DECISION, agent="anthropic:claude-opus-4@https://somewhere.example/v1", knobs={"attempts": 2})
"""A spec and a move that are long."""


def render(nodes: Sequence[Node], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as shown:
        console.print(lineage_table(nodes, width))
    return [line.rstrip() for line in shown.get().splitlines()]


@pytest.mark.parametrize("width", [100, 120, 140, 200])
def test_lineage_keeps_words_and_figures_whole(width: int) -> None:
    weights = replace(NODES[2], lever="weights", failure="static: agent.py:1: expected ':'", gate=None)
    nodes = [*NODES[:1], replace(NODES[1], decision=LONG, gate=GATE), weights]
    lines = render(nodes, width)
    assert max(map(len, lines)) <= width
    shown = " ".join(lines).split()
    for word in ("generation", "decided", "by", "parent", "promoted", "harness", "(attempts=2)", "weights", "rules"):
        assert word in shown, (word, lines)
    for figure in ("0.3000", "[0.2000,", "0.4000]", "+0.1000", "[+0.0500,", "+0.2000]"):
        assert figure in shown, (figure, lines)
    assert "anthropic:claude-opus-4" in "".join(shown) or {"anthropic:", "claude-opus-4"} <= set(shown), lines
    assert any("[0.2000, 0.4000]" in line for line in lines) and any("[+0.0500, +0.2000]" in line for line in lines)
    assert ("rollouts" in shown) == (width >= WIDE)


def test_wide_lineage_has_a_line_for_each_node() -> None:
    assert len(render(NODES, 200)) == 1 + len(NODES)
