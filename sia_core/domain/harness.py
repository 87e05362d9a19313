"""Define a harness: a small directory of code and prompts, immutable, addressed by content.

`harness.toml` names the entry, the budget of one rollout and the knobs; the entry file holds
`async def solve(problem, ctx)`. To this process a harness is data: only the sandbox imports it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import tomlkit
from pydantic import Field, ValidationError, model_validator

from sia_core.domain import text_files
from sia_core.domain.errors import HarnessError
from sia_core.domain.hashing import digest_files
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import Strict, flaw

MAX_FILES = 64
MAX_BYTES = 256 * 1024
_IGNORED = ("README.md", "LICENSE")
_TEXTS = (".py", ".toml", ".md", ".txt")
_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=]")
"""Declaration of a program's encoding, in its first two lines (PEP 263)."""

KnobValue = bool | int | float | str


class Knob(Strict):
    """One declared setting that an agent may move."""

    value: KnobValue
    range: tuple[float, float] | None = None
    """Least and greatest number, inclusive."""
    options: tuple[KnobValue, ...] | None = None
    """Allowed values, ordered from plain to rich."""
    help: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Knob":
        if (self.range is None) == (self.options is None):
            raise ValueError("give either range or options")
        problem = self.refuse(self.value)
        if problem:
            raise ValueError(problem)
        return self

    def refuse(self, value: KnobValue) -> str | None:
        """Return why `value` is not allowed, or None."""
        if self.options is not None:
            same = any(type(option) is type(value) and option == value for option in self.options)
            return None if same else f"{value!r} is not one of {list(self.options)}"
        assert self.range is not None
        wanted = int if isinstance(self.value, int) and not isinstance(self.value, bool) else float
        if isinstance(value, bool) or not isinstance(value, (wanted, int)):
            return f"{value!r} is not of type {wanted.__name__}"
        low, high = self.range
        return None if low <= value <= high else f"{value!r} is not within {low:g}..{high:g}"


class HarnessBudget(Strict):
    """Ceilings of one rollout, enforced by the gateway before anything is forwarded."""

    calls: int = Field(default=32, ge=1)
    """Requests to the policy."""
    tokens: int = Field(default=20_000, ge=1)
    """Prompt and output tokens together."""
    runs: int = Field(default=8, ge=0)
    """Programs run through `ctx.run`."""
    parallel: int = Field(default=8, ge=1, le=64)
    """Concurrent requests to the policy; further requests wait."""
    seconds: float = Field(default=60.0, gt=0)
    """Wall clock in seconds."""


class HarnessConfig(Strict):
    """The contents of harness.toml."""

    name: str
    entry: str = "agent.py"
    modules: tuple[Literal["numpy", "scipy", "sklearn"], ...] = ()
    """Packages beyond the standard library that the harness imports."""
    needs: tuple[Literal["subprocesses"], ...] = ()
    """Permissions beyond the sandbox's default; `lab.Limits` says which protection becomes weaker."""
    budget: HarnessBudget = HarnessBudget()
    knobs: dict[str, Knob] = Field(default={})


@dataclass(frozen=True)
class Harness:
    """A harness in memory: file name -> bytes."""

    files: Mapping[str, bytes]

    @classmethod
    def load(cls, path: Path, *, exact: bool = False) -> "Harness":
        """Read a harness directory.

        Args:
            exact: True to keep line ends and byte order marks, for files that have a recorded digest.

        Raises:
            HarnessError: the harness is missing or too large, harness.toml is invalid, or a text is not UTF-8.
        """
        if not (path / "harness.toml").is_file():
            raise HarnessError("no harness.toml", where=str(path), hint="a harness is a directory with a harness.toml")
        files = {}
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
            if file.is_file() and not file.is_symlink() and not hidden and name.name not in _IGNORED:
                files[name.as_posix()] = file.read_bytes()
        if exact:
            return cls.from_files(files, where=str(path))
        for inner, data in files.items():
            _require_utf8(inner, data, str(path))
        return cls.from_files(text_files.normalised_files(files), where=str(path))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "harness") -> "Harness":
        """Check and wrap files of a record or an agent.

        Raises:
            HarnessError: see `load`.
        """
        size = sum(map(len, files.values()))
        if len(files) > MAX_FILES or size > MAX_BYTES:
            raise HarnessError(
                f"{len(files)} files, {size} bytes: a harness holds at most {MAX_FILES} files and {MAX_BYTES} bytes",
                where=where,
            )
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts:
                raise HarnessError(f"file name {name!r} leaves the harness", where=where)
        harness = cls(dict(files))
        try:
            config = harness.config
        except text_files.EncodingError as error:
            raise HarnessError(f"harness.toml {error}", where=where, hint=text_files.SAVE_AS_UTF8) from None
        except KeyError:
            raise HarnessError("has no harness.toml", where=where) from None
        except text_files.TomlError as error:
            raise HarnessError(f"harness.toml {error}", where=where) from None
        except ValidationError as error:
            raise HarnessError(f"harness.toml: {in_words(error, HarnessConfig)}", where=where) from error
        if fault := flaw(config.model_dump()):
            raise HarnessError(f"harness.toml: {fault}", where=where)
        if config.entry not in files:
            raise HarnessError(f"harness.toml names the entry {config.entry!r}, which is not there", where=where)
        return harness

    @cached_property
    def config(self) -> HarnessConfig:
        """Parsed harness.toml."""
        return HarnessConfig.model_validate(text_files.read_toml(self.files["harness.toml"]))

    @cached_property
    def digest(self) -> str:
        """Content address of all files."""
        return digest_files(self.files)

    @property
    def knobs(self) -> dict[str, KnobValue]:
        """Current value of each knob."""
        return {name: knob.value for name, knob in self.config.knobs.items()}

    def with_knobs(self, values: Mapping[str, KnobValue]) -> "Harness":
        """Return a new harness with changed knobs; comments in harness.toml stay.

        Raises:
            HarnessError: a knob is unknown, or a value is outside its range or options.
        """
        document = tomlkit.parse(text_files.decode(self.files["harness.toml"]))
        for name, value in values.items():
            knob = self.config.knobs.get(name)
            if knob is None:
                known = ", ".join(self.config.knobs) or "none"
                raise HarnessError(f"no knob {name!r}", where=self.config.name, hint=f"knobs: {known}")
            problem = knob.refuse(value)
            if problem:
                raise HarnessError(f"knob {name}: {problem}", where=self.config.name)
            document["knobs"][name]["value"] = value
        text = tomlkit.dumps(document)
        return Harness.from_files({**self.files, "harness.toml": text.encode()})


def _require_utf8(name: str, data: bytes, where: str) -> None:
    """Refuse a prompt or program in another encoding: it would be shown, or run, as other characters.

    Raises:
        HarnessError: the file is not UTF-8; a program may declare another encoding.
    """
    if not name.endswith(_TEXTS) and not name.startswith("prompts/"):
        return
    if name.endswith(".py") and any(map(_CODING.match, data.splitlines()[:2])):
        return
    try:
        text_files.decode(data)
    except text_files.EncodingError as error:
        raise HarnessError(f"{name} {error}", where=where, hint=text_files.SAVE_AS_UTF8) from None
