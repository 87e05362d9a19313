"""Silence for `progress=False`: no line of this project, and none of the libraries that a run loads."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LIBRARIES = ("prefect", "mlflow", "ray", "alembic", "sqlalchemy", "httpx", "transformers", "torch", "py.warnings")


@contextmanager
def silence() -> Iterator[None]:
    """Drop warnings and the libraries' log records within, and leave both as they were."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = [logger.level for logger in loggers]
    filters = {logger: _drop for logger in logging.root.manager.loggerDict.values() if _is_of_a_library(logger)}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    for logger, drop in filters.items():
        logger.addFilter(drop)  # type: ignore[union-attr]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for logger, drop in filters.items():
            logger.removeFilter(drop)  # type: ignore[union-attr]


def _drop(_record: logging.LogRecord) -> bool:
    return False


def _is_of_a_library(logger: object) -> bool:
    return isinstance(logger, logging.Logger) and logger.name.partition(".")[0] in _LIBRARIES
