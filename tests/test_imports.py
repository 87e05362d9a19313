"""The architecture's arrows, held over the syntax tree of every file: who may import whom, and what stays light.

A row of `ALLOWED` is a package and the packages it may import; rows are ordered, so that the table itself can
hold no cycle. Imports under TYPE_CHECKING and inside functions count: a type is a dependency too. Not covered:
names imported through `importlib` by a string.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = {"domain", "host"}
BELOW_LOOP = {"agents", "engine", "policy", "record", "report", "search", "weights", *BASE}
BELOW_FLOWS = {"app", "check", "doctor", "export", "importers", "loop", *BELOW_LOOP}
ALLOWED: dict[str, set[str]] = {
    "tasks": BASE,
    "domain": {"tasks"},  # Only for the place of the tasks that ship; the package itself holds no code.
    "host": {"domain"},
    "policy": BASE,
    "engine": {"policy", *BASE},
    "weights": {"policy", *BASE},
    "agents": {"policy", *BASE},
    "record": BASE,
    "search": {"record", *BASE},
    "report": {"agents", "record", "search", *BASE},
    "check": {"agents", "engine", "policy", *BASE},
    "export": {"agents", "engine", "policy", "record", "report", *BASE},
    "doctor": {"engine", "policy", *BASE},
    "importers": BASE,
    "loop": BELOW_LOOP,
    "app": {"loop", *BELOW_LOOP},
    "flows": BELOW_FLOWS,
    "cli": {"flows", *BELOW_FLOWS},
    "infra": {"flows", *BELOW_FLOWS},
    "api": {"cli", "flows", *BELOW_FLOWS},
    "front": {"api", *BASE},
    "templates": {"front"},
}

OWNERS = {
    "prefect": ("flows/", "infra/"),
    "mlflow": ("sia_core/record/",),
    "ray": ("sia_core/engine/", "sia_core/weights/launcher.py"),
}
"""The only packages that may import a library."""

HEAVY = {
    *("torch", "ray", "mlflow", "prefect", "scanpy", "transformers", "peft", "trl"),
    *("accelerate", "anthropic", "datasets", "openai", "pandas", "triton", "vllm"),
}


class Import(NamedTuple):
    """An imported module at a place in a file."""

    path: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


@cache
def files() -> tuple[Path, ...]:
    """Every module of the product."""
    found = (path for top in ("sia_core", "flows", "infra", "tasks") for path in (ROOT / top).rglob("*.py"))
    return tuple(sorted(found))


def is_confined(path: Path) -> bool:
    """True if the file runs inside the sandbox: a task's harness, the SDK, the zygote."""
    parts = path.relative_to(ROOT).parts
    inside = (("sia_core", "engine", "sdk"), ("sia_core", "engine", "sandbox", "inside"))
    holds_harnesses = parts[0] == "tasks" or parts[:2] == ("sia_core", "templates")
    return (holds_harnesses and "harness" in parts) or any(parts[: len(one)] == one for one in inside)


def imports(path: Path, *, at_start_only: bool = False) -> Iterator[Import]:
    """Yield the imports of a file; `from a import b` counts as a.b where a.b is a module of ours, else as a."""
    for node in statements(ast.parse(path.read_text(), str(path)), at_start_only):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield Import(path, node.lineno, deeper if source_of(deeper) else node.module)


def statements(tree: ast.AST, at_start_only: bool) -> Iterator[ast.AST]:
    """All nodes; or only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if at_start_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(node)):
            continue
        yield node
        yield from statements(node, at_start_only)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def source_of(module: str) -> Path | None:
    """The file of a module of the project."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def package_of(path: Path) -> str:
    """The row of ALLOWED that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    if parts[0] != "sia_core":
        return parts[0]
    if parts[1] == "__init__.py":
        return "front"
    if parts[1] == "app.py":
        return "app"
    return parts[1]


def test_arrows_point_one_way() -> None:
    wrong = []
    for path in files():
        package = package_of(path)
        for one in imports(path):
            source = source_of(one.module)
            if source and not is_confined(path) and package_of(source) not in {package, *ALLOWED[package]}:
                wrong.append(f"{one}: {package} may import {sorted(ALLOWED[package])} only")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_row() -> None:
    assert {package_of(path) for path in files()} <= set(ALLOWED)


def test_layer_table_holds_no_cycle() -> None:
    # tasks and domain may name each other; module cycles are caught below.
    table = {package: allowed - {"tasks"} for package, allowed in ALLOWED.items()}
    assert list(TopologicalSorter(table).static_order())


def test_modules_have_no_import_cycle() -> None:
    graph: dict[Path, set[Path]] = {}
    for path in files():
        sources = {source_of(one.module) for one in imports(path, at_start_only=True)}
        graph[path] = {source for source in sources if source and source != path}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


@pytest.mark.parametrize("library", OWNERS)
def test_library_has_one_owner(library: str) -> None:
    wrong = [
        str(one)
        for path in files()
        if not str(path.relative_to(ROOT)).startswith(OWNERS[library])
        for one in imports(path)
        if one.module.split(".")[0] == library
    ]
    assert not wrong, "\n".join([f"only {', '.join(OWNERS[library])} may import {library}", *wrong])


def test_sandboxed_modules_import_nothing_of_the_project() -> None:
    ours = {"sia_core", "flows", "tasks", "infra"}
    confined = filter(is_confined, files())
    wrong = [str(one) for path in confined for one in imports(path) if one.module.split(".")[0] in ours]
    assert not wrong, "\n".join(wrong)


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules after running `code` in a fresh interpreter."""
    report = "import sys, json; sys.stderr.write(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr))


def test_help_loads_nothing_heavy() -> None:
    code = "from sia_core.cli.main import app\napp(['--help'], standalone_mode=False)"
    assert not loaded_by(code) & HEAVY


def test_public_package_loads_nothing_on_import() -> None:
    assert not loaded_by("import sia_core") & {*HEAVY, "numpy", "pydantic", "rich", "typer"}


def test_domain_and_host_load_nothing_heavy() -> None:
    base = [path.relative_to(ROOT).with_suffix("") for path in files() if package_of(path) in BASE]
    named = [f"import {'.'.join(path.parts)}" for path in base if path.name != "__init__"]
    assert not loaded_by("\n".join(named)) & HEAVY


def test_imports_are_found_in_functions_and_type_checking_blocks(tmp_path: Path) -> None:
    source = "import a.b\nfrom sia_core.domain import task\nif TYPE_CHECKING:\n    import c\ndef f():\n    import d\n"
    (path := tmp_path / "m.py").write_text(source)
    assert [one.module for one in imports(path)] == ["a.b", "sia_core.domain.task", "c", "d"]
    assert [one.module for one in imports(path, at_start_only=True)] == ["a.b", "sia_core.domain.task"]


def test_root_of_the_package_holds_packages_and_the_front_door() -> None:
    found = {path.name for path in (ROOT / "sia_core").iterdir() if path.suffix == ".py"}
    assert found <= {"__init__.py", "app.py"}


def test_every_module_of_flows_imports_prefect() -> None:
    modules = [path for path in files() if package_of(path) == "flows" and path.stem != "__init__"]
    without = [path.name for path in modules if not any(one.module.split(".")[0] == "prefect" for one in imports(path))]
    assert not without


def test_layout_in_the_docs_lists_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"^\| `([a-z_/]+)/` \|", text, re.MULTILINE))
    inside = {f"sia_core/{path.name}" for path in (ROOT / "sia_core").iterdir() if (path / "__init__.py").exists()}
    assert listed == {*inside, "sia_core/templates", "flows", "tasks", "infra"}


def test_layout_in_the_docs_states_what_each_package_may_import() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = dict(re.findall(r"^\| `sia_core/([a-z]+)/` \|.*\| (.*) \|$", text, re.MULTILINE))
    plain = {name: row for name, row in rows.items() if name not in ("cli", "api", "templates", "domain", "host")}
    assert {name: set(re.findall(r"`(\w+)`", row)) for name, row in plain.items()} == {
        name: ALLOWED[name] - BASE for name in plain
    }
