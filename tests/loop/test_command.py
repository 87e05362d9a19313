"""A command as the agent, over the real record, ladder and jail, without Ray."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from sia_core.agents.command import mail
from sia_core.agents.command.agent import CommandAgent
from sia_core.agents.evidence import gather
from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.domain.lineage import Decision
from sia_core.loop import decide
from sia_core.loop.agent_jail import commanding
from sia_core.loop.run_view import SessionSource
from sia_core.loop.session import Session
from tests.factories import TOY

TOOL = Path(__file__).parents[1] / "coder" / "tool.py"
KEY = "sk-secret-31c0ffee"


class Bench:
    """A command that decides in a session."""

    def __init__(self, session: Session, folder: Path, command: str, **settings: Any) -> None:
        self.session, self.folder = session, folder
        self.config = session.config.model_copy(update={"agent": f"command:{command}", **settings})
        self.kept: list[Mapping[str, Any]] = []
        self.source = SessionSource(session, 1)

    def agent(self) -> CommandAgent:
        means = commanding(self.config, self.session.task, self.folder, "0")
        assert means is not None
        return CommandAgent(self.config.agent, means, keep=lambda _at, _of, record: self.kept.append(record))

    def situation(self) -> Situation:
        stored, nodes = self.session.run.generation(1), self.session.run.nodes()
        evidence = gather(nodes[0].candidate, stored.rollouts("train"), confidence=0.9, seed=0)
        made: Situation = cast("Any", decide)._situation(self.session, stored, nodes, evidence)
        return replace(made, generations=2)

    def decide(self) -> Decision:
        self.source = SessionSource(self.session, 1)
        return self.agent().decide(self.situation(), self.source)


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """The tool, where a person would have it: neither in the task nor in SIA_HOME."""
    return Path(shutil.copy(TOOL, tmp_path))


def script(folder: Path, text: str) -> str:
    """A command that runs a shell script."""
    file = folder / "cli.sh"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_command_tries_submits_a_faulty_rewrite_then_an_accepted_one(
    session: Session, tmp_path: Path, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODER_KEY", KEY)
    bench = Bench(session, tmp_path / "run", f"{tool} {{prompt}}", agent_env=("CODER_KEY",))
    before = os.umask(0o077)  # As careful people have it: the command may be another user.
    try:
        decision = bench.decide()
    finally:
        os.umask(before)
    assert (decision.lever, decision.parent, decision.category) == ("harness", 0, "search")
    assert {edit.file for edit in decision.edits} == {"agent.py", "menus.py"}
    assert len(decision.cites) == 1 and len(decision.cites[0]) == 64
    (record,) = bench.kept
    assert record["usage"]["requests"] == 2 and record["usage"]["dollars"] is None and not record["usage_known"]
    assert record["trials"] == 2
    assert "expected ':'" in record["not_taken"][0]
    assert [one["code"] for one in record["rounds"]] == [0, 0]
    assert "round 2: done" in record["rounds"][1]["stdout"]
    assert KEY not in json.dumps(record) and "key [CODER_KEY]" in record["rounds"][0]["stdout"]
    # The parent's rollout of that problem is the execute phase's, so only the draft's was new.
    assert bench.source.left().rollouts < session.config.agent_rollouts
    assert len(bench.source.drafts()) >= 2


def test_resumed_decision_starts_no_command_and_counts_the_same(session: Session, tmp_path: Path, tool: Path) -> None:
    bench = Bench(session, tmp_path / "run", str(tool))
    first = bench.decide()
    left, drafts = bench.source.left(), [draft.harness for draft in bench.source.drafts()]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert bench.decide() == first
    assert bench.source.left() == left
    assert [draft.harness for draft in bench.source.drafts()] == drafts
    assert len(bench.kept[1]["rounds"]) == 2


def test_login_files_of_the_person_are_not_kept(
    session: Session, tmp_path: Path, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home := tmp_path / "me").mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / ".coder").mkdir()
    (home / ".coder" / "auth.json").write_text(KEY)
    command = script(tmp_path, "grep -c sk-secret ~/.coder/auth.json; echo changed > ~/.coder/auth.json; exit 3")
    bench = Bench(session, tmp_path / "run", command, agent_files=("~/.coder/auth.json",))
    with pytest.raises(NoDecisionError, match="no decision in 6 rounds of the command; the last fault"):
        bench.decide()
    assert bench.kept[0]["rounds"][0]["stdout"] == "1\n", "the copy is there"
    assert (home / ".coder" / "auth.json").read_text() == KEY, "what it did to the copy stays there"
    left = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert left == ["log.jsonl"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit 3", "the command ended with status 3"),
        ("echo oh no >&2; exit 1", "oh no"),
        ("true", "there is no file decision.json"),
        ("echo '{' > decision.json", "decision.json is no JSON"),
        ("echo '[1]' > decision.json", "holds no JSON object"),
        ('echo \'{"lever": "fly"}\' > decision.json', "lever: 'fly' is not 'harness'"),
        ("echo '{\"edits\": []}' > decision.json", "names edits: edit the files of harness/"),
        ("ln -s /etc/passwd decision.json", "there is no file decision.json"),
        ("mkfifo decision.json", "there is no file decision.json"),
        ("head -c 400000 /dev/zero > decision.json", "larger than"),
        ("echo '{}' > decision.json; rm -r harness", "there is no directory harness"),
        ("echo '{}' > decision.json; ln -s /etc/passwd harness/x.py", "harness/x.py is no regular file"),
        ("echo '{}' > decision.json; rm -r harness; ln -s /etc harness", "there is no directory harness"),
        ("echo '{}' > decision.json; head -c 400000 /dev/zero > harness/x", "larger than"),
        ("echo '{}' > decision.json; cd harness; for i in $(seq 2000); do : > f$i; done", "more than"),
        ("kill -9 $$", "the command ended with status"),
    ],
)
def test_refused_result_goes_back_with_a_message(session: Session, tmp_path: Path, text: str, says: str) -> None:
    command = script(tmp_path, f'[ "$SIA_ROUND" = 1 ] || {{ cat FAULTS.md; exit 7; }}\n{text}')
    bench = Bench(session, tmp_path / "run", command)
    with pytest.raises(NoDecisionError):
        bench.decide()
    assert says in bench.kept[0]["not_taken"][0]
    assert says in bench.kept[0]["rounds"][1]["stdout"], "the next round reads it"


def test_command_that_does_not_end_is_killed_and_rules_may_decide(session: Session, tmp_path: Path) -> None:
    bench = Bench(session, tmp_path / "run", script(tmp_path, "sleep 600 & sleep 600"), agent_minutes=0.03)
    with pytest.raises(NoDecisionError, match=r"no decision in 0\.03 minutes; .* limit of time"):
        bench.decide()
    assert bench.kept[0]["rounds"][0]["killed_for"] == "time"


def test_secret_in_a_submission_is_refused(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_KEY", KEY)
    command = script(tmp_path, 'echo "# $CODER_KEY" >> harness/agent.py; echo \'{"lever": "stop"}\' > decision.json')
    bench = Bench(session, tmp_path / "run", command, agent_env=("CODER_KEY",))
    with pytest.raises(NoDecisionError):
        bench.decide()
    assert "harness/agent.py holds a secret" in bench.kept[0]["not_taken"][0]
    assert KEY not in (next((tmp_path / "run").rglob("log.jsonl"))).read_text()


def test_directory_of_the_command_holds_nothing_private(session: Session, tmp_path: Path) -> None:
    """Answers, gate and sealed problems: none of the texts that only the verifier knows."""
    command = script(tmp_path, 'grep -rlE "WORTH|gate-[0-9]|test-[0-9]" . ; grep -rc train- problems | head -1; exit 1')
    bench = Bench(session, tmp_path / "run", command)
    with pytest.raises(NoDecisionError):
        bench.decide()
    (found,) = bench.kept[0]["rounds"][0]["stdout"].splitlines()
    assert found.startswith("problems/") and found.endswith(".json:1")
    assert Path(TOY).is_dir()


HOSTILE = r"""
[ "$SIA_ROUND" = 1 ] || { ls -ld requests; cat FAULTS.md; exit 7; }
ln -s /etc etc; ln -s /proc/1/root root
for folder in ../given /etc etc root/usr requests/../../given none; do ./try_harness --folder $folder; done
./try_harness --problems gate-0
./try_harness --rollouts 99
./try_harness --parent 7
echo '{"folder": "harness", "more": 1}' > requests/0123456789abcdef0123456789abcdef.json
while [ ! -e /sia/given/replies/0123456789abcdef0123456789abcdef.json ]; do sleep 0.1; done
cat /sia/given/replies/0123456789abcdef0123456789abcdef.json; echo
touch /sia/given/replies/x /sia/given/x 2>&1
for i in $(seq 3000); do : > requests/$i; done
rm -r requests; ln -s /sia/given requests
rm -f FAULTS.md; mkdir -p FAULTS.md/x decision.json/x
"""


def test_hostile_requests_are_answered_with_an_error_and_do_nothing(session: Session, tmp_path: Path) -> None:
    bench = Bench(session, tmp_path / "run", script(tmp_path, HOSTILE))
    with pytest.raises(NoDecisionError):
        bench.decide()
    first, second = bench.kept[0]["rounds"][:2]
    told = first["stdout"].splitlines()
    assert all("there is no directory" in line for line in told[:6]), told
    assert "no training problems gate-0" in told[6]
    assert "rollouts: 99 is not at most 16" in told[7]
    assert "there is no node 7" in told[8]
    assert "more: there is no such field" in told[9]
    assert len([line for line in told[10:] if "Read-only" in line or "denied" in line]) == 2
    assert "there is no file decision.json" in bench.kept[0]["not_taken"][0]
    assert second["stdout"].startswith("drwx"), "the next round has a directory for requests again"
    assert "there is no file decision.json" in second["stdout"]
    assert bench.source.left().rollouts == session.config.agent_rollouts, "none of it cost a rollout"


def test_drafts_of_a_round_are_limited(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MAX_REQUESTS", 3)
    text = "for i in 1 2 3 4; do ./try_harness --folder none; done; exit 1"
    bench = Bench(session, tmp_path / "run", script(tmp_path, text))
    with pytest.raises(NoDecisionError):
        bench.decide()
    assert "3 drafts were asked for" in bench.kept[0]["rounds"][0]["stdout"].splitlines()[3]
    assert all("3 drafts were asked for" in one["stdout"].splitlines()[0] for one in bench.kept[0]["rounds"][1:])


def test_interrupted_decision_resumes_where_it_stopped(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = "grep -q blue harness/agent.py || sed -i s/green/blue/ harness/agent.py; cat harness/agent.py"
    command = script(tmp_path, f"{edit}; ./try_harness; touch tried; sleep 900")
    bench = Bench(session, tmp_path / "run", command)
    serve = mail.Mailbox.serve

    def interrupted(self: mail.Mailbox) -> None:
        serve(self)
        if list((tmp_path / "run").glob("command/*/work/tried")):
            raise KeyboardInterrupt

    monkeypatch.setattr(mail.Mailbox, "serve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.decide()
    left = bench.source.left()
    assert left.rollouts < session.config.agent_rollouts
    (folder,) = (tmp_path / "run" / "command").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["given", "log.jsonl", "ready", "work"]
    script(tmp_path, f"{edit}; exit 1")
    monkeypatch.setattr(mail.Mailbox, "serve", serve)
    with pytest.raises(NoDecisionError):
        bench.decide()
    assert bench.source.left() == left, "the trial is known, and not paid for again"
    assert bench.kept[1]["trials"] == 1
    assert '"blue"' in bench.kept[1]["rounds"][0]["stdout"], "what it had edited is there"
