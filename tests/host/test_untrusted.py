"""Reading where untrusted code writes: no link is followed, nothing waits, everything is bounded."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sia_core.host.untrusted import UntrustedError, discard, measure, open_folder, read_regular, read_tree, replace


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top").mkdir()
    fd = open_folder(tmp_path / "top")
    yield fd
    os.close(fd)


@pytest.fixture
def top(tmp_path: Path, folder: int) -> Path:
    (tmp_path / "secret").write_text("GOT")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/secret").write_text("GOT")
    return tmp_path / "top"


def tree(folder: int, name: str = "h", files: int = 4, cap: int = 100) -> dict[str, bytes]:
    return read_tree(folder, name, files=files, cap=cap, ignored=("README.md",))


def test_files_are_read_at_any_depth_but_for_hidden_ones(folder: int, top: Path) -> None:
    for name in ("h/a", "h/b/c", "h/.git/config", "h/__pycache__/x", "h/README.md", "h/b/.x"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    assert tree(folder) == {"a": b"h/a", "b/c": b"h/b/c"}
    assert tree(folder, "h/b") == {"c": b"h/b/c"}


@pytest.mark.parametrize("name", ["link", "../secret", "/etc/passwd", "fifo", "way/secret", "none", "", "a\0b"])
def test_path_outside_the_tree_is_not_read(folder: int, top: Path, name: str) -> None:
    (top / "link").symlink_to(top.parent / "secret")
    (top / "way").symlink_to(top.parent / "hidden")
    os.mkfifo(top / "fifo")
    assert read_regular(folder, name, 100) is None


@pytest.mark.parametrize("kind", ["link", "directory link", "fifo"])
def test_tree_with_a_link_is_not_taken(folder: int, top: Path, kind: str) -> None:
    (top / "h").mkdir()
    if kind == "fifo":
        os.mkfifo(top / "h/x")
    else:
        (top / "h/x").symlink_to(top.parent / ("secret" if kind == "link" else "hidden"))
    with pytest.raises(UntrustedError, match="h/x is no regular file"):
        tree(folder)


@pytest.mark.parametrize("name", ["way", "../hidden", "/", "none", "file"])
def test_tree_elsewhere_is_not_taken(folder: int, top: Path, name: str) -> None:
    (top / "way").symlink_to(top.parent / "hidden")
    (top / "file").write_text("x")
    with pytest.raises(UntrustedError, match="no directory"):
        tree(folder, name)


def test_too_much_is_refused(folder: int, top: Path) -> None:
    (top / "h").mkdir()
    (top / "h/big").write_bytes(b"x" * 101)
    with pytest.raises(UntrustedError, match="larger than 100 bytes"):
        tree(folder)
    (top / "h/big").unlink()
    for number in range(5):
        (top / f"h/{number}").write_text("x")
    with pytest.raises(UntrustedError, match="more than 4 files"):
        tree(folder)
    for number in range(500):
        (top / f"h/.{number}").touch()
    with pytest.raises(UntrustedError, match="more than 80 files"):
        tree(folder)


def test_obstacle_at_the_target_is_replaced(folder: int, top: Path) -> None:
    outside = top.parent / "secret"
    (top / "a").symlink_to(outside)
    (top / "b").mkdir()
    (top / "b/x").touch()
    for name in ("a", "b", "c"):
        replace(folder, name, b"new")
        assert (top / name).read_bytes() == b"new" and not (top / name).is_symlink()
    assert outside.read_text() == "GOT"
    discard(folder, "a")
    discard(folder, "none")
    assert not (top / "a").exists()


def test_measure_does_not_follow_links_and_is_bounded(top: Path) -> None:
    (top / "big").write_bytes(bytes(100_000))
    (top / "link").symlink_to(top.parent)
    assert 90_000 < measure(top, 10) < 120_000
    deep = top
    for _ in range(70):
        deep /= "d"
        deep.mkdir()
    with pytest.raises(UntrustedError, match="nested deeper"):
        measure(top, 1000)
    with pytest.raises(UntrustedError, match="more than 5 files"):
        measure(top, 5)
