"""Contact the models of a run before anything is spent, and keep what is learnt of their servers.

A contact is part of the run's record, so that a resumed run does not ask again, and keeps the same dialect: a
choice is made in one way throughout a run. A dialect that changes later is recorded and said too.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from sia_core.agents.prices import policy_price
from sia_core.domain.config import RunConfig
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read, write
from sia_core.domain.task import Task
from sia_core.domain.usage import Usage
from sia_core.host.progress import Reporter
from sia_core.loop.spending import Ledger
from sia_core.policy.contact import Contact, is_contacted, make_contact
from sia_core.policy.dialect import Dialect, Learner, OnLearnt
from sia_core.policy.protocol import EndpointError
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

Part = Literal["policy", "agent"]
Contacts = Mapping[Part, Contact]
FILE: Final = "connection.json"
_CHOICE: Final = b".choose("


def connect(
    config: RunConfig, task: Task, harness: Harness | None, reporter: Reporter, known: Contacts | None = None
) -> dict[Part, Contact]:
    """Contact the servers of policy and agent, except those that are known.

    Args:
        harness: harness that the run begins with; None if it is not known yet.
        known: earlier contacts of the run.

    Raises:
        PolicyError: a server refuses the model, the key or a request that the run needs.
        EndpointError: a server does not answer.
    """
    choice = harness is not None and any(_CHOICE in data for data in harness.files.values())
    asks: dict[Part, tuple[str, dict[str, Any]]] = {}
    if is_contacted(config.policy):
        asks["policy"] = config.policy, {"temperature": task.sampling.temperature, "choice": choice}
    if (config.levers or config.meta) and is_contacted(config.agent):
        asks["agent"] = config.agent, {"silence_s": float(config.agent_timeout)}
    made: dict[Part, Contact] = {}
    for part, (spec, needs) in asks.items():
        before = (known or {}).get(part)
        if before is not None and before.spec == spec:
            made[part] = before
            continue
        learner = Learner(learnt=_saying(reporter, part, spec))
        try:
            made[part] = make_contact(spec, learner=learner, **needs)
        except EndpointError as error:
            if part == "agent" or "RAY_ADDRESS" not in os.environ:
                raise
            # The policy's process may run on another machine of the cluster, which reaches more.
            reporter.say(f"{spec} was not checked, as it does not answer this machine: {error.what}")
            made[part] = Contact(spec)
    return made


def tags(contacts: Contacts) -> dict[str, str]:
    """Return the tags of parameters that are not sent, and of choices that are numbered; empty without deviations."""
    left_out = {part: ", ".join(contact.dialect.left_out) for part, contact in contacts.items()}
    said = "; ".join(f"{part}: {names}" for part, names in left_out.items() if names)
    policy = contacts.get("policy")
    found = {Tag.NOT_SENT: said, Tag.CHOICES: policy.dialect.choices if policy else ""}
    return {name: value for name, value in found.items() if value}


def read_contacts(run: RunRecord) -> dict[Part, Contact]:
    """Return the contacts in the record of a run."""
    kept: dict[Part, Any] = run.get_json(FILE) or {}
    return {part: read(Contact, contact) for part, contact in kept.items()}


def keep(run: RunRecord, contacts: Contacts) -> None:
    """Record the contacts of a run."""
    run.put_json(FILE, {part: write(contact) for part, contact in contacts.items()})


class Connections:
    """The contacts of an open run, with changes of the servers' dialects."""

    def __init__(self, run: RunRecord, contacts: dict[Part, Contact], reporter: Reporter) -> None:
        self._run, self._contacts, self._reporter = run, contacts, reporter

    @classmethod
    def open(cls, run: RunRecord, config: RunConfig, task: Task, reporter: Reporter) -> "Connections":
        """Read the contacts of a run, and make those that are missing. Raises as `connect` does."""
        known = read_contacts(run)
        made = connect(config, task, None, reporter, known)
        if made != known:
            keep(run, made)
            run.set_tags(tags(made))
        return cls(run, made, reporter)

    def dialect(self, part: Part) -> Dialect | None:
        """Return what is known of a server; None for a model without one."""
        contact = self._contacts.get(part)
        return contact.dialect if contact else None

    def learner(self, part: Part) -> Learner | None:
        """Return a learner that begins with what is known, and records and says changes."""
        if part not in self._contacts:
            return None
        return Learner(self.dialect(part), lambda dialect, _: self.note(part, dialect))

    def note(self, part: Part, dialect: Dialect | None) -> None:
        """Record a server's dialect, and say what is new."""
        contact = self._contacts.get(part)
        if contact is None or dialect is None or dialect == contact.dialect:
            return
        known = contact.dialect.sentences()
        self._contacts[part] = replace(contact, dialect=dialect)
        keep(self._run, self._contacts)
        self._run.set_tags(tags(self._contacts))
        for sentence in dialect.sentences():
            if sentence not in known:
                _saying(self._reporter, part, contact.spec)(dialect, sentence)

    def charge(self, ledger: Ledger) -> None:
        """Count what the contacts have cost, once."""
        for part, contact in self._contacts.items():
            price = policy_price(contact.spec)
            tokens = contact.prompt_tokens, contact.output_tokens
            used = Usage(tokens=sum(tokens), dollars=price.of(*tokens) if price else 0.0)
            ledger.spend(f"connect/{part}/{contact.spec}", "connect", used)


def _saying(reporter: Reporter, part: Part, spec: str) -> OnLearnt:
    return lambda _, sentence: reporter.say(f"{part} {spec.partition('@')[0]}: the server {sentence}")
