"""Pictures are escaped, scaled and named."""

import math
from xml.etree import ElementTree as ET

import pytest
from markupsafe import Markup

from sia_core.report.charts import difference_chart
from sia_core.report.svg import element, picture, scale_for, text


def test_svg_attributes_and_texts_are_escaped() -> None:
    drawn = element("g", text('<b>"&\u202e', 1, 2), data_x='"><script>')
    assert str(drawn) == (
        '<g data-x="&#34;&gt;&lt;script&gt;"><text x="1" y="2">&lt;b&gt;&#34;&amp;\\u{202e}</text></g>'
    )


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [-3.0, 5e6], [1e-9, 2e-9], []])
def test_scale_has_room_and_round_ticks(values: list[float]) -> None:
    scale = scale_for(values, 100, 0)
    assert all(0 <= scale(value) <= 100 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 12 and all(math.isfinite(tick) for tick in ticks)


def test_picture_has_a_title_and_a_description() -> None:
    root = ET.fromstring(picture("n", "Title <1>", "about", 10, 10, [Markup("<g></g>")]))
    assert root.get("role") == "img"
    assert [child.text for child in root][:2] == ["Title <1>", "about"]


def test_bars_are_sorted_and_counted() -> None:
    drawn = difference_chart("d", "t", [0.2, -0.1, 0.0])
    assert "Of 3 problems 1 became better, 1 worse, 1 the same." in drawn
    assert drawn.count('class="bar better"') == 1 and drawn.index("bar worse") < drawn.index("bar better")
