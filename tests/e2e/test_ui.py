"""`sia ui` starts both servers, finds them again, links to runs, and ends them."""

import re
import urllib.request

from tests.e2e.conftest import TOY, Sia, processes_of


def test_both_uis_start_are_found_again_and_end(sia: Sia) -> None:
    sia("run", str(TOY), "--policy", "scripted", "--levers", "", "--generations", "1", "--no-ui")
    environment = {name: value for name, value in sia.environment.items() if name != "PREFECT_API_URL"}
    own = Sia(sia.home, environment)
    try:
        first = own("ui")
        for address in re.findall(r"^(?:Prefect|MLflow) +(http\S+)$", first, flags=re.MULTILINE):
            with urllib.request.urlopen(address, timeout=30) as page:
                assert page.status == 200
                assert b"<html" in page.read().lower()
        run = sia.run()
        assert f"/#/experiments/{run.experiment_id}/runs/{run.run_id}" in first
        assert run.tags["sia.prefect_run"] in first
        assert own("ui") == first
    finally:
        stopped = own("ui", "--stop")
    assert stopped.count("ended") == 2
    assert own("ui", "--stop").count("was not running") == 2
    assert not processes_of(sia.home)
