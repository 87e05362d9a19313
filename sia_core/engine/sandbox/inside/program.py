"""Run one untrusted Python file as `__main__` in the current, already confined process.

This is the last trusted code of a rollout, and never returns. Semantics are those of `python main.py`:
traceback on standard error, exit code, non-daemon threads joined, `atexit` functions run.
"""

import atexit
import os
import resource
import sys
import threading
import traceback
import types
from typing import NoReturn


def execute(path: str) -> NoReturn:
    """Run `path` to its end, and exit the process with its exit code."""
    code = _guarded(path)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # noqa: BLE001 - any exception is the program's own
        code = code or 1
    os._exit(code & 0xFF)


def _guarded(path: str) -> int:
    try:
        _run_main(path)
    except SystemExit as stop:
        return _exit_code(stop)
    except BaseException as error:  # noqa: BLE001 - any exception is the program's own
        _report(error)
        return 1
    return 0


def _run_main(path: str) -> None:
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    code = compile(_read(path), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 - this is what the sandbox is for


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - see rollout
        return file.readall()


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    sys.stderr.write(f"{stop.code}\n")
    return 1


def _report(error: BaseException) -> None:
    """Print the traceback without this module's frames."""
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # a little room to print the traceback
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename == __file__:
            own = own.tb_next
        traceback.print_exception(type(error), error, own)
    except BaseException:  # noqa: BLE001 - as above
        os.write(2, f"{type(error).__name__}\n".encode())
