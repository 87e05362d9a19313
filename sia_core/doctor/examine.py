"""Run all checks, in the order in which a run needs their subjects."""

from collections.abc import Callable, Iterator
from functools import partial

from sia_core.doctor.machine import check_condition, check_disk, check_gpu, check_home, check_sandbox
from sia_core.doctor.packages import check_packages, check_pins, check_python
from sia_core.doctor.report import Finding
from sia_core.doctor.services import check_keys, check_mlflow, check_model, check_prefect, check_ray, check_reply
from sia_core.domain.config import Tier
from sia_core.host.machine.checks import CHECKS
from sia_core.policy.spec import parse_spec


def examine(policy: str, tier: Tier, agent: str = "rules") -> Iterator[Finding]:
    """Check the machine for a run with this policy, sandbox tier and agent; yield each finding once it is made."""
    checks: tuple[Callable[[], Finding | None], ...] = (
        check_python,
        lambda: check_packages(_extra(policy)),
        check_pins,
        check_gpu,
        lambda: check_sandbox(tier),
        check_home,
        check_disk,
        *(partial(check_condition, subject) for subject in CHECKS),
        check_mlflow,
        check_prefect,
        check_ray,
        lambda: check_keys(policy),
        lambda: check_model(policy),
        lambda: check_reply(policy, agent=False),
        lambda: check_reply(agent, agent=True),
    )
    for check in checks:
        if (finding := check()) is not None:
            yield finding


def _extra(policy: str) -> str:
    """Return the extra of the package that a policy needs."""
    if policy == "smollm2" or policy.startswith("local:"):
        return "train"
    return "llm" if parse_spec(policy) is not None else ""
