"""Diffs are marked and cut, and samples of rollouts are drawn."""

from sia_core.record.parquet import Row
from sia_core.report.diff import LINES, WIDTH, read_diff
from sia_core.report.sample import PER_SET, choose


def test_changed_words_are_marked_in_pairs() -> None:
    lines, more = read_diff("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n same\n-value = 1\n+value = 12\n")
    assert [line.kind for line in lines] == ["file", "file", "hunk", "same", "del", "add"] and not more
    assert lines[4].parts == ((False, "-"), (False, "value = "), (True, "1"))
    assert lines[5].parts == ((False, "+"), (False, "value = "), (True, "12"))


def test_long_diffs_are_cut_and_counted() -> None:
    lines, more = read_diff("\n".join(["+" + "x" * 10_000] * (LINES + 5)))
    assert len(lines) == LINES and more == 5
    assert len(lines[0].parts[0][1]) < WIDTH + 60


def rows(count: int) -> list[Row]:
    return [Row(f"k{at:04d}", "p", at, at / count, "timeout" if at == 5 else None, 1, 1.0) for at in range(count)]


def test_sample_has_cited_rollouts_both_ends_and_every_failure() -> None:
    found = choose(rows(1000), {"k0500", "k0007"})
    assert [row.key for row in found[:2]] == ["k0007", "k0500"]
    keys = {row.key for row in found}
    assert {"k0000", "k0999", "k0005"} <= keys and len(found) == 2 + PER_SET
    assert choose(rows(1000), set()) == choose(rows(1000), set())
    assert len(choose(rows(3), set())) == 3
