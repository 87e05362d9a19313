"""Turn facts into the values that the templates print, for all sections but the generations."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sia_core.agents.quote import elide
from sia_core.agents.recorded import RECORDED_BY
from sia_core.domain.budget import HOUR, read_spent, total
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Node, stand_ins
from sia_core.domain.replies import reply_lines
from sia_core.record.tags import Tag
from sia_core.report import charts
from sia_core.report.arms import ROW_COLUMNS, VERSUS_COLUMNS, arm_rows, notes, versus_rows
from sia_core.report.command import run_command, set_by_task, settings
from sia_core.report.facts import Facts
from sia_core.report.problems import cut_note, pair_rows, pair_up, tally
from sia_core.report.table import COLUMNS, lineage_rows, report_rows, sealed_lines
from sia_core.search.arms import Comparison

Section = dict[str, Any]
_NUMBERS = ("score", "gain over parent", "predicted", "looks", "rollouts", "tokens")
_PREDICTED = COLUMNS.index("gain over parent") + 1
MINUTE = 60.0


def head(facts: Facts) -> list[tuple[str, str]]:
    """List the names and values that a reader asks for first."""
    config, decided = facts.config, facts.tags.get(RECORDED_BY)
    spent = None if facts.spending is None else total(read_spent(facts.spending["roles"]))
    pairs = [
        ("policy", config.policy),
        ("Feedback-Agent", f"{config.agent}{f', decisions of {decided}' if decided else ''}{_stood_in(facts)}"),
        ("levers", ", ".join(config.levers) or "none: the baseline that only samples"),
        ("generations", f"{facts.tags.get(Tag.GENERATIONS_DONE, '0')} of {config.generations}"),
        ("sandbox", f"tier {config.sandbox}"),
        ("seed", str(config.seed)),
        ("started", moment(facts.started)),
    ]
    if facts.ended is not None:
        pairs.append(("ended", moment(facts.ended)))
    if spent is not None:
        dollars = f", {spent.dollars:.2f} dollars" if spent.dollars else ""
        pairs.append(("spent", f"{spent.rollouts:,.0f} rollouts, {spent.tokens:,.0f} tokens{dollars}"))
    return pairs


def _stood_in(facts: Facts) -> str:
    """Return the share of decisions that `rules` made in the agent's place."""
    made, others = sum(node.decision is not None for node in facts.nodes), len(stand_ins(facts.nodes))
    return f"; rules decided {others} of {made} times in its place" if others else ""


def verdict(facts: Facts) -> str:
    """Summarise the run in one sentence."""
    test = facts.test
    if test is None:
        return "The sealed test has not been run, so there is no result yet."
    if test.node == 0:
        return "Nothing was promoted: the final candidate is the seed."
    gain = test.gain
    said = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] over the seed on the sealed test"
    return (
        f"Improved: {said}."
        if gain.low > 0
        else f"No improvement shown: {said}, an interval that does not lie above 0."
    )


def moment(milliseconds: int) -> str:
    """Format a point in time in UTC, independent of the reader's time zone."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def scores(facts: Facts) -> Section:
    """Build the main chart and its table."""
    points = list(_points(facts))
    last = max((generation.index for generation in facts.generations), default=0)
    used = [name for name in charts.SERIES if any(point.series == name for point in points)]
    rows = [
        (
            str(point.column) if point.column <= last else "end",
            charts.SERIES[point.series],
            str(point.node),
            *(f"{value:.4f}" for value in (point.score.mean, point.score.low, point.score.high)),
            str(point.score.problems),
            str(point.score.rollouts),
        )
        for point in points
    ]
    return {
        "chart": charts.score_chart(points, last) if points else "",
        "legend": [(charts.key_marker(name), charts.SERIES[name]) for name in used],
        "rows": rows,
    }


def _points(facts: Facts) -> list[charts.Point]:
    points = []
    for generation in facts.generations:
        if generation.evidence is not None and generation.executed is not None:
            points.append(charts.Point(generation.index, "train", generation.executed, generation.evidence.score))
        gated = [child for child in generation.children if child.node and child.node.gate and not child.node.gate.void]
        for child in gated:
            node = child.node
            if node is None or node.gate is None or node.parent is None:
                continue
            if child is gated[0]:
                points.append(charts.Point(generation.index, "parent", node.parent, node.gate.parent))
            side: charts.Series = "kept" if node.promoted else "child"
            points.append(charts.Point(generation.index, side, node.index, node.gate.child, child.number))
    if facts.test is not None:
        end = max((generation.index for generation in facts.generations), default=0) + 1
        points.append(charts.Point(end, "sealed-seed", 0, facts.test.seed))
        if facts.test.node != 0:
            points.append(charts.Point(end, "sealed-final", facts.test.node, facts.test.final))
    return points


def sealed(facts: Facts) -> Section:
    """Build the section of the sealed test: in words, by problem, and in the task's own figures."""
    test = facts.test
    if test is None:
        return {"lines": [], "rows": [], "figures": []}
    pairs = pair_up(*facts.sealed) if facts.sealed is not None and test.node != 0 else []
    figures = report_rows(test)
    return {
        "lines": [*sealed_lines(test, facts.config.confidence), *reply_lines(test.replies, "sealed test")],
        "rows": pair_rows(pairs),
        "cut": cut_note(len(pairs)),
        "tally": tally(pairs),
        "chart": charts.difference_chart("sealed-gain", "Gain by sealed problem", [pair.difference for pair in pairs])
        if pairs
        else "",
        "figures": [tuple(elide(value, 300) for value in row.values()) for row in figures],
        "figure_columns": tuple(figures[0]) if figures else (),
    }


def lineage(facts: Facts) -> Section:
    """Build the lineage tree and its table."""
    if not facts.nodes:
        return {"rows": []}
    columns = ("node", *COLUMNS[:_PREDICTED], "predicted", *COLUMNS[_PREDICTED:])
    rows = [
        [elide({**row, **_predicted(node)}[column], 200) for column in columns]
        for node, row in zip(facts.nodes, lineage_rows(facts.nodes), strict=True)
    ]
    return {
        "chart": charts.lineage_chart(facts.nodes),
        "columns": columns,
        "rows": rows,
        "numbers": [at for at, column in enumerate(columns) if column in _NUMBERS],
    }


def _predicted(node: Node) -> dict[str, str]:
    """Return the cells of a node's row that only the report's table has."""
    pulled = node.decision is not None and node.lever not in ("none", "stop")
    return {
        "node": str(node.index),
        "predicted": f"{node.decision.predicted_gain:+.4f}" if node.decision and pulled else "-",
    }


def arms(facts: Facts) -> Section | None:
    """Build the section of the run's comparison; None if the run belongs to none."""
    name = facts.tags.get(Tag.ARMS)
    if name is None:
        return None
    about = f"This run is arm {facts.tags[Tag.ARM]}, seed {facts.tags[Tag.SEED]}, of comparison {name}."
    if facts.arms is None:
        about += " The other arms were not all finished when this page was made."
        return {"about": about, "rows": [], "versus": [], "notes": []}
    found = read(Comparison, facts.arms)
    return {
        "about": about,
        "columns": ROW_COLUMNS,
        "rows": arm_rows(found),
        "versus_columns": VERSUS_COLUMNS,
        "versus": versus_rows(found),
        "notes": list(notes(found)),
    }


def spending(facts: Facts) -> Section:
    """List what each role has spent, and the shares of the budget."""
    kept = facts.spending
    if kept is None:
        return {"rows": [], "shares": [], "wall": ""}
    roles = read_spent(kept["roles"])
    whole, wall = total(roles), float(kept["wall_seconds"])
    rows = [
        (
            name,
            f"{one.rollouts:,.0f}",
            f"{one.tokens:,.0f}",
            f"{one.dollars:.2f}",
            minutes(one.seconds),
            minutes(one.gpu_seconds),
        )
        for name, one in [*roles.items(), ("all", whole)]
    ]
    shares = [
        (name.replace("_", " "), f"{amount:,.6g}", f"{limit:,g}", f"{amount / limit:.0%}")
        for name, amount, limit in facts.config.budget.shares(whole, wall)
    ]
    columns = ("by", "rollouts", "tokens", "dollars", "time, side by side", "GPU time")
    return {"columns": columns, "rows": rows, "shares": shares, "wall": minutes(wall)}


def minutes(seconds: float) -> str:
    """Format a duration."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / MINUTE:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def sandbox(facts: Facts) -> Section:
    """List the sandbox tier of untrusted code and its self-test."""
    found: Mapping[str, Any] = facts.sandbox or {}
    missing = ", ".join(found.get("missing", ())) or "nothing"
    pairs: list[tuple[str, str]] = [("tier", facts.config.sandbox)]
    if facts.config.sandbox == "none":
        pairs.append(("protection", "none: code that models wrote ran as the user of the run"))
    else:
        pairs += [("missing protections", missing), ("probes", str(found.get("probe_digest", "not recorded"))[:12])]
    return {"facts": pairs, "rows": sorted((name, str(result)) for name, result in found.get("probes", {}).items())}


def environment(facts: Facts) -> list[tuple[str, str]]:
    """List machine and versions."""
    found = facts.environment
    if found is None:
        return []
    memory = f"{found['memory_gb']:g} GB" if found["memory_gb"] else "unknown"
    return [
        ("Python", found["python"]),
        ("system", found["system"]),
        ("processor", f"{found['processor'] or 'unknown'}, {found['cpus']} CPUs, {memory}"),
        ("GPUs", ", ".join(found["gpus"]) or "none"),
        ("packages", ", ".join(f"{name} {version}" for name, version in found["packages"].items())),
    ]


def reproduce(facts: Facts) -> Section:
    """Build the section that reproduces the run: the command, its preconditions, and the whole configuration."""
    config, tags = facts.config, facts.tags
    about = (
        "The same command, with the same task, policy and versions, gives the same candidates, scores and decisions."
    )
    command = run_command(config)
    if Tag.ARMS in tags:
        again = f"sia arms --resume {tags[Tag.ARMS]}"
        about = f"The run is part of a comparison; resume or show it with {again}. The run alone is:"
    if config.agent.startswith("command:"):
        about += " The agent is a command: it may decide differently, and its decisions cannot be replayed."
    elif not config.agent.startswith(("rules", "alternate", "recorded", "replay")):
        about += " The agent is a language model: replay its recorded decisions to repeat them (docs/agents.md)."
    return {
        "about": about,
        "command": command,
        "facts": [
            ("task", f"{tags[Tag.TASK]}, digest {tags.get(Tag.TASK_DIGEST, 'unknown')[:12]}"),
            ("policy", f"{config.policy}, digest {tags.get(Tag.POLICY_DIGEST, 'unknown')[:12]}"),
            ("SIA", tags.get(Tag.VERSION, "unknown")),
            ("set by the task, not by an option", ", ".join(" ".join(pair) for pair in set_by_task(config).items())),
            ("MLflow run", facts.run_id),
        ],
        "config": [(name, elide(value, 300)) for name, value in settings(config).items()],
    }


def curve_table(curves: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return columns and rows of an update's metrics, one row for each step."""
    steps = sorted({step for points in curves.values() for step, _ in points})
    values = [dict(points) for points in curves.values()]
    rows = [[str(step), *(f"{one[step]:.5g}" if step in one else "-" for one in values)] for step in steps]
    return ("step", *curves), rows
