"""List and copy the files of an external task. No link out of its directory is followed."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from sia_core.domain.errors import UsageError


def regular_files(folder: Path, root: Path) -> list[Path]:
    """List the files below a folder by path, without hidden ones.

    Args:
        root: directory that no link may leave.

    Raises:
        UsageError: a link leaves the root or names a directory.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in (*folders, *names):
            path = Path(place, name)
            if not _is_hidden(name) and checked(path, root).is_file():
                found.append(path)
    return sorted(found)


def checked(path: Path, root: Path) -> Path:
    """Return the path, if it lies within the root and is no link out of it.

    Raises:
        UsageError: it is a link out of the root, or to a directory.
    """
    target = path.resolve()
    if not target.is_relative_to(root.resolve()):
        what = f"is a link out of the directory, to {target}"
        raise UsageError(what, where=str(path), hint="put the file itself there; an import follows no such link")
    if path.is_symlink() and target.is_dir():
        raise UsageError("is a link to a directory", where=str(path), hint="put the directory itself there")
    return path


def copy_files(files: Iterable[Path], base: Path, target: Path) -> list[str]:
    """Copy files below `base` to the same places below `target`; return their relative paths."""
    names = []
    for file in files:
        name = file.relative_to(base)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
        names.append(name.as_posix())
    return names


def named_files(first: Sequence[Path], home: Path) -> list[Path]:
    """List the files beside a program that it names: imported modules and mentioned file names, also through others.

    Raises:
        UsageError: such a file is a link out of the directory.
    """
    others = {file for file in home.iterdir() if file.is_file() and not _is_hidden(file.name)} - set(first)
    found, todo = list(first), list(first)
    while todo:
        text = todo.pop().read_text(errors="replace")
        named = sorted(file for file in others if _names(text, file))
        others -= set(named)
        found += [checked(file, home) for file in named]
        todo += named
    return found


def _names(text: str, file: Path) -> bool:
    if re.search(rf"(?<![\w.-]){re.escape(file.name)}(?![\w-])", text):
        return True
    imported = rf"^\s*(?:from|import)\s[^#\n]*\b{re.escape(file.stem)}\b"
    return file.suffix == ".py" and re.search(imported, text, re.MULTILINE) is not None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"
