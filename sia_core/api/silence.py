"""Silence for `progress=False`: no line of this project, and none of the libraries that a run loads."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LIBRARIES = ("prefect", "mlflow", "ray", "alembic", "sqlalchemy", "httpx", "transformers", "torch", "py.warnings")


@contextmanager
def silence() -> Iterator[None]:
    """Drop warnings and the libraries' log records within, and leave both as they were."""
    tops = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in tops]
    found = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    theirs = [logger for logger in found if logger.name.partition(".")[0] in _LIBRARIES]
    for logger in tops:
        logger.setLevel(logging.CRITICAL + 1)
    for logger in theirs:
        logger.addFilter(_drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(tops, levels, strict=True):
            logger.setLevel(level)
        for logger in theirs:
            logger.removeFilter(_drop)


def _drop(_record: logging.LogRecord) -> bool:
    return False
