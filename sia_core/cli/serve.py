"""`sia serve DIR`: serve an export behind an OpenAI-compatible endpoint of this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

TOKEN = "SIA_SERVE_TOKEN"


def serve(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that `sia export` wrote.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on the loopback; 0 picks a free one.")] = 8400,
    policy: Annotated[str, typer.Option(help="Base model on this machine, such as local:DIR.")] = "",
    sandbox: Annotated[str, typer.Option(help="Sandbox tier of the harness.")] = "strict",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a local policy.")] = None,
) -> None:
    """Answer chat completions with DIR's agent, or with its policy and adapter alone."""
    import secrets

    import uvicorn
    from rich.console import Console

    from sia_core.cli.live import Live
    from sia_core.export.base import check_policy
    from sia_core.export.inference import Inference
    from sia_core.export.manifest import Export
    from sia_core.export.serve import HOST, build_app, listen
    from sia_core.loop.configure import parse_tier
    from sia_core.policy.registry import load_policy

    tier, export = parse_tier(sandbox), Export.load(directory)
    bound = listen(port)
    with Live(Console(stderr=True)) as live:
        spec = check_policy(export, policy, live)
    part = export.manifest.policy
    inference = Inference(export, load_policy(spec, threads=threads or part.threads, batch=part.batch), tier)
    try:
        inference.open()
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            token = secrets.token_urlsafe(24)
            print(f"token {token} (set {TOKEN} to choose it)")
        print(f"models agent, policy at http://{HOST}:{bound.getsockname()[1]}/v1; Ctrl-C ends", flush=True)
        config = uvicorn.Config(build_app(inference, token), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        inference.close()
