"""Without a Prefect server artifacts are dropped, and other errors are a single line."""

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import disable_run_logger

from flows.progress import outage_explained, show_if_reachable
from sia_core.domain.errors import ServiceError


def refused() -> None:
    raise httpx.ConnectError("All connection attempts failed")


def answered() -> None:
    request = httpx.Request("POST", "http://prefect/api")
    raise PrefectHTTPStatusError("500 Internal Server Error", request=request, response=httpx.Response(500))


@pytest.mark.parametrize("fail", [refused, answered])
def test_artifact_is_dropped_when_prefect_is_out_of_reach(fail: object) -> None:
    with disable_run_logger():
        show_if_reachable(fail)  # type: ignore[arg-type]


def test_programming_error_is_not_dropped() -> None:
    with disable_run_logger(), pytest.raises(ZeroDivisionError):
        show_if_reachable(lambda: 1 // 0)


def test_outage_of_prefect_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@prefect:4200/api")
    with pytest.raises(ServiceError, match="Prefect does not answer: All connection") as caught, outage_explained():
        refused()
    assert caught.value.where == "http://prefect:4200/api" and caught.value.hint
    with pytest.raises(ServiceError, match="answers with an error: 500"), outage_explained():
        answered()
