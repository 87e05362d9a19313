"""Patches change a harness, and ambiguous patches are refused."""

import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Decision
from sia_core.domain.patch import Block, Edit, EditLimits, apply_edits, unified_diff

AGENT = "async def solve(problem, ctx):\n    return 1\n"


@pytest.fixture
def harness() -> Harness:
    return Harness.from_files(
        {"harness.toml": b'name = "plain"\n', "agent.py": AGENT.encode(), "prompts/ask.txt": b"Answer.\n"}
    )


def refused(harness: Harness, *edits: Edit) -> HarnessError:
    with pytest.raises(HarnessError) as caught:
        apply_edits(harness, edits)
    return caught.value


def test_several_files_are_changed_at_once(harness: Harness) -> None:
    child = apply_edits(
        harness,
        [
            Edit("agent.py", blocks=(Block("return 1", "return 2"), Block("return 2", "return 3"))),
            Edit("helper.py", text="X = 1\n"),
            Edit("prompts/ask.txt", delete=True),
        ],
    )
    assert child.files["agent.py"] == AGENT.replace("1", "3").encode()
    assert sorted(child.files) == ["agent.py", "harness.toml", "helper.py"]
    assert harness.files["agent.py"] == AGENT.encode()


def test_block_not_found_shows_the_nearest_text(harness: Harness) -> None:
    error = refused(harness, Edit("agent.py", blocks=(Block("    return  1", ""),)))
    assert "occurs 0 times" in error.what
    assert "from line 2, is:\n    return 1" in error.hint
    assert "whole text" in error.hint


def test_block_found_twice_is_refused(harness: Harness) -> None:
    assert "occurs 2 times" in refused(harness, Edit("agent.py", blocks=(Block("\n", ""),))).what


@pytest.mark.parametrize("edit", [Edit("agent.py"), Edit("agent.py", text="", delete=True)])
def test_edit_with_more_than_one_change_is_refused(harness: Harness, edit: Edit) -> None:
    assert "exactly one of" in refused(harness, edit).what


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit("other.py", delete=True), "no such file"),
        (Edit("harness.toml", delete=True), "harness.toml"),
        (Edit("agent.py", delete=True), "names the entry"),
        (Edit("../out.py", text=""), "leaves the harness"),
        (Edit("harness.toml", text="name = "), "not TOML"),
    ],
)
def test_edits_that_leave_no_valid_harness_are_refused(harness: Harness, edit: Edit, says: str) -> None:
    assert says in str(refused(harness, edit))


def test_diff_can_be_applied_by_patch(harness: Harness, tmp_path: Path) -> None:
    child = apply_edits(harness, [Edit("agent.py", text=AGENT + "# end"), Edit("helper.py", text="X = 1\n")])
    for name, data in harness.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    diff = unified_diff(harness.files, child.files)
    subprocess.run(["git", "apply", "-"], input=diff.encode(), cwd=tmp_path, check=True)
    assert {name: (tmp_path / name).read_bytes() for name in child.files} == child.files


def test_decision_survives_json() -> None:
    decision = Decision(
        "both",
        2,
        "because",
        "rules",
        0.1,
        (0.0, 0.2),
        edits=(Edit("a.py", blocks=(Block("x", "y"),)), Edit("b.py", text="z")),
        update={"algorithm": "rloo"},
        fixes=("p1",),
    )
    assert read(Decision, asdict(decision)) == decision


BEFORE = {"agent.py": b"a\nb\n", "skill.md": b"one\ntwo\nthree\n"}


@pytest.mark.parametrize(
    ("limits", "after", "says"),
    [
        (EditLimits("prompts"), {**BEFORE, "agent.py": b"a\n"}, r"agent\.py: is outside this run's edit scope"),
        (EditLimits("prompts"), {**BEFORE, "harness.toml": b""}, r"only \.md and \.txt files may change"),
        (EditLimits("prompts"), {"agent.py": b"a\nb\n"}, None),
        (EditLimits(lines=2), {**BEFORE, "skill.md": b"one\n2\nthree\n"}, None),
        (EditLimits(lines=1), {**BEFORE, "skill.md": b"one\n2\nthree\n"}, "changes 2 lines"),
        (EditLimits(lines=3), {**BEFORE, "skill.md": b"", "new.txt": b"x\n"}, "changes 4 lines"),
        (EditLimits(), {"agent.py": b"other\n" * 99}, None),
    ],
)
def test_rewrite_beyond_the_edit_limits_is_refused(
    limits: EditLimits, after: dict[str, bytes], says: str | None
) -> None:
    if says is None:
        limits.check(BEFORE, after)
        return
    with pytest.raises(HarnessError, match=says):
        limits.check(BEFORE, after)
