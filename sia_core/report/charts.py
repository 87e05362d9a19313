"""Draw the charts of a report. Series differ in shape and colour, and a table repeats the figures of each chart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from sia_core.domain.lineage import SEED_NODE, Node, champion
from sia_core.domain.stats import Estimate
from sia_core.report.svg import Scale, element, picture, scale_for, short_number, text

Series = Literal["train", "parent", "child", "kept", "sealed-seed", "sealed-final"]
SERIES: Mapping[Series, str] = {
    "train": "train: the candidate that was executed",
    "parent": "gate: the parent",
    "child": "gate: a child that was not promoted",
    "kept": "gate: a child that was promoted",
    "sealed-seed": "sealed test: the seed",
    "sealed-final": "sealed test: the final candidate",
}
_PLACE: Mapping[Series, float] = dict(zip(SERIES, (-0.25, -0.05, 0.12, 0.12, -0.1, 0.1), strict=True))
"""Beside the middle of the column, so that intervals do not cover each other."""


@dataclass(frozen=True)
class Point:
    """A score with its interval."""

    column: int
    """Generation; the sealed test has the column after the last."""
    series: Series
    node: int
    score: Estimate
    sibling: int = 0


def score_chart(points: Sequence[Point], generations: int) -> Markup:
    """Draw scores over generations, with intervals."""
    columns = generations + (1 if any(point.series.startswith("sealed") for point in points) else 0)
    width, height = 80 + columns * min(max(920 / columns, 74.0), 140.0), 330.0
    y = scale_for([edge for point in points for edge in (point.score.low, point.score.high)], height - 44, 14)
    x = Scale(0.4, columns + 0.6, 62, width - 10)
    parts = [*_grid(y, 62, width - 10), *_columns(x, generations, columns, height - 44)]
    parts.append(
        _line([(x(point.column + _PLACE["train"]), y(point.score.mean)) for point in points if point.series == "train"])
    )
    parts += [_marked(point, x, y) for point in points]
    about = f"{len(points)} scores with intervals over {generations} generations; the table below has the figures."
    return picture("scores", "Score over generations", about, width, height, parts, scrolls=True)


def _marked(point: Point, x: Scale, y: Scale) -> Markup:
    at = x(point.column + _PLACE[point.series] + 0.12 * point.sibling)
    whisker = element("line", x1=at, x2=at, y1=y(point.score.low), y2=y(point.score.high), class_="whisker")
    name = f"{SERIES[point.series]}, node {point.node}: {point.score}"
    return element(
        "g",
        element("title", Markup.escape(name)),
        whisker,
        marker(point.series, at, y(point.score.mean)),
        class_=point.series,
    )


def marker(series: Series, x: float, y: float, size: float = 5) -> Markup:
    """Draw the shape of a series."""
    if series == "train":
        return element("circle", cx=x, cy=y, r=size, class_="mark")
    if series == "parent":
        return element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_="mark")
    if series == "sealed-seed":
        return element(
            "path",
            d=f"M{x:.1f} {y - size - 2:.1f}l{size + 1} {size + 2}l{-size - 1} {size + 2}l{-size - 1} {-size - 2}z",
            class_="mark",
        )
    return element("path", d=f"M{x:.1f} {y - size - 2:.1f}l{size + 1} {2 * size}h-{2 * size + 2}z", class_="mark")


def key_marker(series: Series) -> Markup:
    """Draw the shape of a series for a chart's key."""
    drawn = element("g", marker(series, 8, 8), class_=series)
    return element("svg", drawn, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true", class_="key")


def lineage_chart(nodes: Sequence[Node]) -> Markup:
    """Draw the lineage tree, with a column for each generation and the lever below each node."""
    lanes = _lanes(nodes)
    columns, rows = max(node.generation for node in nodes) + 1, max(lanes.values()) + 1
    width, height = max(360.0, 60 + 104.0 * columns), 22 + 62.0 * rows
    place = {node.index: (46 + 104.0 * node.generation, 36 + 62.0 * lanes[node.index]) for node in nodes}
    leader = champion(list(nodes)).index
    parts = [_edge(place[node.parent], place[node.index], node) for node in nodes if node.parent is not None]
    parts += [_node(node, *place[node.index], leads=node.index == leader) for node in nodes]
    promoted = ", ".join(str(node.index) for node in nodes if node.promoted and node.index != SEED_NODE) or "none"
    about = (
        f"{len(nodes)} nodes from seed to generation {columns - 1}; promoted: {promoted}. The table below lists them."
    )
    return picture("lineage", "Lineage tree", about, width, height, parts, scrolls=True)


def _lanes(nodes: Sequence[Node]) -> dict[int, int]:
    """Choose the row of each node: a promoted node on the first row, the others below."""
    lanes: dict[int, int] = {}
    for generation in {node.generation for node in nodes}:
        fellows = [node for node in nodes if node.generation == generation]
        fellows.sort(key=lambda node: (not node.promoted, node.index))
        first = 0 if fellows[0].promoted else 1
        lanes |= {node.index: first + at for at, node in enumerate(fellows)}
    return lanes


def _edge(start: tuple[float, float], end: tuple[float, float], node: Node) -> Markup:
    (x1, y1), (x2, y2) = start, end
    middle = x2 - 52
    curve = f"M{x1 + 15:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2 - 15:.1f} {y2:.1f}"
    return element("path", d=curve, class_="edge kept" if node.promoted else "edge")


def _node(node: Node, x: float, y: float, *, leads: bool) -> Markup:
    kind = "kept" if node.promoted else "failed" if node.failure else "child"
    parts = [element("circle", cx=x, cy=y, r=15, class_="mark")]
    if leads:
        parts.append(element("circle", cx=x, cy=y, r=19, class_="ring"))
    gain = f" {node.gate.gain.mean:+.4f}" if node.gate is not None else ""
    parts.append(text(node.index, x, y + 4, class_="number", text_anchor="middle"))
    parts.append(text(node.lever + gain, x, y + 33, class_="label", text_anchor="middle"))
    return element("g", *parts, class_=f"node {kind}")


def curve_chart(name: str, metric: str, points: Sequence[tuple[int, float]], round_steps: int) -> Markup:
    """Draw one metric over the steps of an update, with a dashed line at the start of each round."""
    width, height = 260.0, 150.0
    values = [value for _, value in points]
    y = scale_for(values, height - 24, 24)
    last = max(step for step, _ in points)
    x = Scale(-0.5, max(last, 1) + 0.5, 58, width - 8)
    begins = range(round_steps, last + 1, round_steps) if round_steps else ()
    parts = [text(metric, 6, 13, class_="heading"), *_grid(y, 58, width - 8, count=3)]
    parts += [element("line", x1=x(at - 0.5), x2=x(at - 0.5), y1=24, y2=height - 24, class_="begin") for at in begins]
    parts.append(_line([(x(step), y(value)) for step, value in points]))
    parts += [element("circle", cx=x(step), cy=y(value), r=2.5, class_="mark") for step, value in points]
    parts += [text(at, x(at), height - 8, class_="tick", text_anchor="middle") for at in sorted({0, last})]
    about = f"{len(points)} steps, from {short_number(values[0])} to {short_number(values[-1])}."
    return picture(name, f"{metric} over steps", about, width, height, parts)


def difference_chart(name: str, title: str, differences: Sequence[float]) -> Markup:
    """Draw the sorted differences by problem as bars from 0."""
    ordered = sorted(differences)
    width, height = 640.0, 190.0
    y = scale_for([0.0, *ordered], height - 14, 12)
    step = min((width - 72) / len(ordered), 30.0)
    bars = [_bar(62 + at * step, step, y(0.0), y(value), value) for at, value in enumerate(ordered)]
    better, worse = sum(value > 0 for value in ordered), sum(value < 0 for value in ordered)
    about = (
        f"Of {len(ordered)} problems {better} became better, {worse} worse, {len(ordered) - better - worse} the same."
    )
    zero = element("line", x1=62, x2=width - 10, y1=y(0.0), y2=y(0.0), class_="zero")
    return picture(name, title, about, width, height, [*_grid(y, 62, width - 10), *bars, zero], scrolls=True)


def _bar(x: float, step: float, zero: float, end: float, value: float) -> Markup:
    gap = min(step * 0.15, 2)
    kind = "better" if value > 0 else "worse"
    return element(
        "rect", x=x + gap / 2, y=min(zero, end), width=step - gap, height=abs(zero - end), class_=f"bar {kind}"
    )


def _grid(y: Scale, left: float, right: float, count: int = 5) -> Iterator[Markup]:
    for tick in y.ticks(count):
        yield element("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid")
        yield text(short_number(tick), left - 6, y(tick) + 4, class_="tick", text_anchor="end")


def _columns(x: Scale, generations: int, columns: int, floor: float) -> Iterator[Markup]:
    for at in range(1, columns + 1):
        label = str(at) if at <= generations else "sealed test"
        yield text(label, x(at), floor + 18, class_="tick", text_anchor="middle")
    yield text("generation", x((1 + generations) / 2), floor + 36, class_="tick", text_anchor="middle")


def _line(points: Sequence[tuple[float, float]]) -> Markup:
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_="line")
