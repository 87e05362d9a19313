"""Leave links to MLflow in Prefect: a link if MLflow's server is up, else the command that starts it and the page."""

from collections.abc import Callable

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from sia_core.loop.create_run import mlflow_address


def link_to_mlflow(page: Callable[[str], str], text: str, key: str, about: str) -> None:
    """Leave a link to a page of MLflow.

    Args:
        page: makes the URL from MLflow's address.
        text: text of the link.
        key: key of the artifact.
        about: description of the artifact.
    """
    address = mlflow_address()
    if address:
        create_link_artifact(page(address), text, key, about)
    else:
        how = f"{text}: MLflow's server was not running. Type `sia ui`, and add this to the address of MLflow:"
        create_markdown_artifact(f"{how}\n\n`{page('')}`", key, about)
