"""Test that a hostile trajectory, decision or answer does nothing to its reader."""

import io
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from sia_core.cli import show
from sia_core.cli.live import Live
from sia_core.cli.plain import plain, plain_lines
from sia_core.cli.watch import draw
from sia_core.domain.candidate import Candidate
from sia_core.domain.rollout import Failure
from sia_core.record.store import Record, RunRecord
from sia_core.report.compare import compare_page, compare_runs
from sia_core.report.markdown import decision_markdown, proposal_markdown
from sia_core.report.page import report
from sia_core.report.pulse import Watcher
from tests.report.made import make_run, play
from tests.report.pages import check_accessible, check_inert, parse

MARKUP = (
    "</pre></div></details><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>"
    "<a href=javascript:alert(1)>x</a><style>*{display:none}</style><iframe srcdoc=x></iframe>{{ 7*7 }}{% raw %}<!--"
    "]]><math><mtext></title></textarea>&lt;b&gt;&#60;script&#62;"
)
CODES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[?1049h\x9b31m\x00\x08\x7f\r over"
BIDI = "\u202eevil\u202c \u2066x\u2069 \u200b\u200e\ufeff \ue000 \ufdd0 \U0001fffe \ud800"
RICH = "[bold red]x[/bold red][link=file:///etc/passwd]y[/link][/]\\["
FENCE = "```\n\n# heading\n\n~~~\n<img src=x>\n\n````"
HOSTILE = "\n".join((MARKUP, CODES, BIDI, RICH, FENCE))

STEERING = [chr(at) for at in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x200B, 0x200E, 0x202E, 0x2066, 0xFEFF)]
"""Control characters but tab and line feed, and characters that reorder or hide text."""


@pytest.fixture(scope="module")
def hostile_run(store: Record) -> RunRecord:
    return make_run(store, HOSTILE.replace("\ud800", ""))  # A lone surrogate is not text that a store can hold.


def test_report_holds_hostile_text_as_text(hostile_run: RunRecord) -> None:
    page = report(hostile_run)
    root = parse(page)
    check_inert(root)
    check_accessible(root)
    assert not [code for code in STEERING if code in page]
    assert "<script" not in page and "onerror=alert(1)&gt;" in page
    assert "\\u{202e}evil" in page and "\\u{1b}]0;owned" in page and "{{ 7*7 }}" in page


def test_comparison_holds_hostile_text_as_text(store: Record, hostile_run: RunRecord) -> None:
    other = make_run(store, with_generations=False, tags={"sia.sandbox.missing": HOSTILE[:300]}, agent_tokens=7)
    found = compare_runs([hostile_run, other])
    root = parse(compare_page(found, ""))
    check_inert(root)
    check_accessible(root)


def lines_of(print_it: Callable[[Console], None]) -> str:
    """Return the output on a terminal that takes codes but shows no colours, so that no code is the program's own."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200, highlight=False)
    print_it(console)
    found = console.file
    assert isinstance(found, io.StringIO)
    return found.getvalue()


def test_hostile_text_does_not_steer_the_terminal(hostile_run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(console: Console) -> None:
        monkeypatch.setattr(show, "console", console)
        show.print_result(hostile_run)

    pulse = Watcher(hostile_run).look()
    for printed in (lines_of(status), lines_of(lambda console: console.print(draw(pulse)))):
        assert "no round was better" in printed
        assert not [code for code in STEERING if code in printed]
        assert "[bold red]" in printed


def test_hostile_text_does_not_steer_progress_and_messages() -> None:
    def work(console: Console) -> None:
        with Live(console) as live:
            live.say(HOSTILE)

    printed = lines_of(work)
    for own in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\r"):  # What the bars write: the cursor, their line.
        printed = printed.replace(own, "")
    assert not [code for code in STEERING if code in printed] and "[bold red]" in printed
    assert not [code for code in STEERING if code in plain_lines(HOSTILE)]


def test_hostile_text_stays_in_its_markdown_fences(hostile_run: RunRecord) -> None:
    node = hostile_run.nodes()[1]
    assert node.decision is not None
    for shown in (decision_markdown(node), decision_markdown(hostile_run.nodes()[2])):
        assert outside_fences(shown).isascii()
        assert "<" not in outside_fences(shown) and "# heading" not in outside_fences(shown)
        assert not [code for code in STEERING if code in shown]
    diff = "+x\n" * 200_000
    assert diff in proposal_markdown(node.decision, diff)  # What a person approves is shown whole.


def outside_fences(markdown: str) -> str:
    """The lines of a markdown text that are in no fenced block, inline code left out."""
    fence, found = "", []
    for line in markdown.split("\n"):
        if fence:
            fence = "" if line.startswith(fence) and set(line) == {"`"} else fence
        elif line.startswith("```"):
            fence = "`" * (len(line) - len(line.lstrip("`")))
        else:
            found.append("".join(line.split("`")[::2]))
    assert not fence
    return "\n".join(found)


def test_line_of_ten_megabytes_costs_no_more_than_another(store: Record) -> None:
    run = make_run(store, with_generations=False)
    endless = "\u202e<&x" * 2_500_000
    first = play(Candidate("h"), "train", 0, 0.5, "x")
    turns = tuple(replace(turn, prompt=endless, output=endless) for turn in first.turns)
    failure = Failure("error", endless)
    rollouts = [
        replace(first, turns=turns, answer={"a": endless}, notes=(endless,)),
        replace(first, unit=replace(first.unit, seed=1), failure=failure),
    ]
    run.generation(1).put_rollouts("train", rollouts)
    began = time.process_time()
    page = report(run)
    assert time.process_time() - began < 10
    assert len(page) < 2_000_000 and "characters left out" in page
    check_inert(parse(page))
    began = time.process_time()
    assert len(plain(endless)) < 30_000 and len(plain_lines(endless)) < 300_000
    assert time.process_time() - began < 2
