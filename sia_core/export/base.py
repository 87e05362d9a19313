"""The base model of an export on this machine: found, and seen to be the one that the run used."""

from sia_core.domain.errors import PolicyError, UsageError
from sia_core.export.manifest import Export
from sia_core.host.progress import Reporter
from sia_core.policy.base import base_digest
from sia_core.policy.registry import base_directory, check_spec, policy_digest, prepare_policy
from sia_core.policy.spec import parse_spec


def check_policy(export: Export, asked: str, reporter: Reporter) -> str:
    """The spec to play with; its base model is fetched where it can be, and is the export's.

    Raises:
        PolicyError: it is another base model, it cannot be found, or it is behind a server that nobody named here.
    """
    spec = asked or export.manifest.policy.spec
    server = None if asked else parse_spec(spec)
    if server is not None and not server.own:
        # An export may come from a stranger, and a spec says which key goes to which address.
        what = f"the export's policy is behind a server ({spec}), and nothing is sent to one that an export names"
        raise PolicyError(what, where=str(export.path), hint=f"if you trust it, name it yourself: --policy '{spec}'")
    check_spec(spec)
    try:
        prepare_policy(spec, reporter.progress)
        found = policy_digest(spec)
    except PolicyError as error:
        if not asked:
            error.hint = "say where the base model is on this machine: --policy local:DIR"
        raise
    wanted = export.manifest.policy
    if found == wanted.digest or (wanted.base is not None and _base(spec) == wanted.base):
        return spec
    raise PolicyError(
        f"is another base model than the export's: found {found[:12]}, expected {(wanted.base or wanted.digest)[:12]} "
        f"({wanted.spec})",
        where=f"--policy {spec}",
        hint="name the directory of the model that the run used: --policy local:DIR",
    )


def _base(spec: str) -> str | None:
    """Digest of the base model behind a spec; None where there are no files to be seen."""
    try:
        return base_digest(base_directory(spec))
    except UsageError:
        return None
