"""Tools that an agent calls while it reads: a pydantic model of the arguments, and a function to text.

An invalid call is answered with the error, and never ends a conversation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.agents.library import Library, Order, ReadingError, Ref
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import UnfitError, parse
from sia_core.domain.rollout import ToolCall
from sia_core.policy.protocol import Tool as Schema

A = TypeVar("A", bound="Arguments")


class Arguments(BaseModel):
    """Arguments of a tool."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Tool(Generic[A]):
    """One tool."""

    name: str
    help: str
    arguments: type[A]
    run: Callable[[A], str]

    @property
    def schema(self) -> Schema:
        """Return the tool's schema as a request carries it."""
        parameters = _parameters(self.arguments)
        return {"type": "function", "function": {"name": self.name, "description": self.help, "parameters": parameters}}


@cache
def _parameters(arguments: type[Arguments]) -> dict[str, Any]:
    return arguments.model_json_schema()


class ArgumentsError(Exception):
    """Invalid arguments of a call; the message says why."""


def parse_arguments(call: ToolCall, shape: type[A]) -> A:
    """Parse the arguments of a call. No arguments, `null`, and an object that is written as a JSON text are taken too.

    Raises:
        ArgumentsError: the arguments are not JSON, not of the shape, or hold a value that no record can hold.
    """
    try:
        given = parse(call.arguments) if call.arguments.strip() else {}
        given = parse(given) if isinstance(given, str) else given
    except UnfitError as error:
        raise ArgumentsError(f"the arguments are refused: {error}") from error
    except ValueError as error:
        raise ArgumentsError(f"the arguments are not JSON ({error})") from error
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ArgumentsError(f"the arguments are a {type(given).__name__}; give a JSON object of named arguments")
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise ArgumentsError(in_words(error, shape)) from error


def answer(tools: Sequence[Tool[Any]], call: ToolCall) -> str:
    """Run the called tool; return its answer, or an error message."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return f"error: no tool {call.name!r}; tools: {', '.join(tool.name for tool in tools)}"
    try:
        return tool.run(parse_arguments(call, tool.arguments))
    except (ArgumentsError, ReadingError) as error:
        return f"error: {error}"


class _Paged(Arguments):
    offset: int = Field(0, ge=0, description="rows to skip")


class _OfGeneration(_Paged):
    generation: int | None = Field(None, description="the latest when left out")


_TRIED = "a rewrite, as `node 2` or `draft 0123456789ab`: its rollouts of trials and rungs, whatever the generation"


class _Problems(_OfGeneration):
    tried: Ref | None = Field(None, description=_TRIED)


class _Rollouts(_Problems):
    problem: str | None = Field(None, description="only of this problem")
    failure: str | None = Field(None, description="`none`, `any`, or a kind of failure: error, timeout, refused, ...")
    min_score: float | None = None
    max_score: float | None = None
    order: Order = "worst"


class _Read(Arguments):
    id: str = Field(description="rollout id, or its beginning")
    view: Literal["clean", "raw"] = "clean"
    start: int = Field(0, ge=0, description="character to begin at")


class _Search(_Problems):
    text: str = Field(max_length=200)


_REF = "a node, or a draft: 2, `node 2` or `draft 0123456789ab`; a node whose rewrite was rejected shows that rewrite"


class _Files(Arguments):
    node: Ref = Field(description=_REF)


class _File(_Files):
    file: str
    start: int = Field(0, ge=0)


class _Diff(Arguments):
    before: Ref = Field(description=_REF)
    after: Ref
    start: int = Field(0, ge=0)


class _Update(Arguments):
    node: int


def reading_tools(library: Library) -> list[Tool[Any]]:
    """List all tools that read one run: its training rollouts, then its harnesses and history."""
    return [*_rollout_tools(library), *_history_tools(library)]


def _rollout_tools(library: Library) -> list[Tool[Any]]:
    return [
        Tool(
            "list_problems",
            "Training problems of a generation, worst first.",
            _Problems,
            lambda given: library.problems(given.generation, given.offset, given.tried),
        ),
        Tool(
            "list_rollouts",
            "Training rollouts, filtered and ordered.",
            _Rollouts,
            lambda given: library.rollouts(
                given.generation,
                tried=given.tried,
                problem=given.problem,
                failure=given.failure,
                least=given.min_score,
                most=given.max_score,
                order=given.order,
                offset=given.offset,
            ),
        ),
        Tool(
            "read_rollout",
            "A trajectory: clean (no repetition) or raw (every character).",
            _Read,
            lambda given: library.read(given.id, given.view, given.start),
        ),
        Tool(
            "search_rollouts",
            "Find text in the raw trajectories of a generation.",
            _Search,
            lambda given: library.search(given.text, given.generation, given.offset, given.tried),
        ),
    ]


def _history_tools(library: Library) -> list[Tool[Any]]:
    return [
        Tool("list_files", "Files of a harness.", _Files, lambda given: library.files(given.node)),
        Tool(
            "read_file",
            "Text of a harness file.",
            _File,
            lambda given: library.file(given.node, given.file, given.start),
        ),
        Tool(
            "diff_harnesses",
            "The difference of two harnesses.",
            _Diff,
            lambda given: library.diff(given.before, given.after, given.start),
        ),
        Tool(
            "list_nodes",
            "The lineage: what was tried, predicted and observed.",
            _Paged,
            lambda given: library.lineage(given.offset),
        ),
        Tool(
            "list_rejected",
            "Decisions and drafts that were not promoted, why, and the most frequent messages of their rollouts.",
            _Paged,
            lambda given: library.rejected(given.offset),
        ),
        Tool(
            "read_update",
            "Settings, curve and end of the weight update that made a node, or failed to.",
            _Update,
            lambda given: library.update(given.node),
        ),
        Tool(
            "list_other_runs",
            "Generations of earlier runs of this task, with their metrics.",
            _Paged,
            (lambda given: library.history(given.offset)),
        ),
        Tool(
            "lever_memory", "Gains of each lever and kind of hypothesis so far.", Arguments, lambda _: library.memory()
        ),
    ]
