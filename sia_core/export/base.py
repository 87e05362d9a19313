"""Find the base model of an export on this machine, and check that the run used the same."""

from sia_core.domain.command import quoted
from sia_core.domain.errors import PolicyError, UsageError
from sia_core.export.manifest import Export
from sia_core.host.progress import Reporter
from sia_core.policy.base import base_digest
from sia_core.policy.registry import base_directory, check_spec, policy_digest, prepare_policy
from sia_core.policy.spec import parse_spec


def check_policy(export: Export, asked: str, reporter: Reporter) -> str:
    """Return the spec of the policy, after its base model was fetched if possible and checked.

    Raises:
        PolicyError: the base model differs or cannot be found, or it is behind a server that you did not name.
    """
    spec = asked or export.manifest.policy.spec
    server = None if asked else parse_spec(spec)
    if server is not None and not server.own:
        # An export may be untrusted, and its spec says which key goes to which address.
        what = f"the export's policy is behind a server ({spec}), and nothing is sent to one that an export names"
        raise PolicyError(
            what, where=str(export.path), hint=f"if you trust the server, name it: --policy {quoted(spec)}"
        )
    check_spec(spec)
    try:
        prepare_policy(spec, reporter.progress)
        found = policy_digest(spec)
    except PolicyError as error:
        if not asked:
            error.hint = "name the base model on this machine: --policy local:DIR"
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
    """Return the digest of a spec's base model; None if it has no local files."""
    try:
        return base_digest(base_directory(spec))
    except UsageError:
        return None
