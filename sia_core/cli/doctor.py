"""`sia doctor`: check whether a run can start on this machine."""

import json
from typing import Annotated

import typer


def doctor(
    policy: Annotated[str, typer.Option(help="Policy of the run.")] = "smollm2",
    sandbox: Annotated[str, typer.Option(help="Sandbox tier of the run.")] = "strict",
    agent: Annotated[str, typer.Option(help="Agent of the run.")] = "rules",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything that a run needs. The exit code is 0 if a run can start, else the code of that run."""
    from sia_core.doctor.examine import examine
    from sia_core.doctor.report import exit_code
    from sia_core.domain.json_data import write
    from sia_core.loop.configure import parse_tier

    findings = []
    for finding in examine(policy, parse_tier(sandbox), agent):
        findings.append(finding)
        if not as_json:
            print(f"{finding.status if finding.status != 'failed' else 'FAILED':8} {finding.subject:9} {finding.seen}")
            if finding.fix:
                print(f"{'':18} next: {finding.fix}", flush=True)
    code = exit_code(findings)
    if as_json:
        print(json.dumps({"ready": code == 0, "exit_code": code, "findings": findings}, indent=2, default=write))
    else:
        print("a run can start" if code == 0 else "a run cannot start: see FAILED above")
    if code:
        raise typer.Exit(code)
