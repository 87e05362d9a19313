"""Nothing that a forged or foreign record names is followed: no code, no program, no server, no place of files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import canonical_json, digest_bytes, digest_files
from sia_core.host.directories import write_files
from sia_core.record import models
from sia_core.record.arms import ArmsRecord
from sia_core.record.branch import Branch
from sia_core.record.store import Record, RunRecord, open_record
from sia_core.record.tags import Tag
from sia_core.search.arms import plan_arms
from tests.record.test_record import CONFIG, HARNESS, artifact

TAGS = {Tag.TASK: "toy", Tag.TASK_DIGEST: "d", f"{Tag.FINGERPRINT}.task": "t"}
EVIL = CONFIG.model_copy(update={"task": "/tmp/evil"})


@pytest.fixture
def store(store_home: Path) -> Record:
    return open_record(store_home, None)


@pytest.fixture
def run(store: Record) -> RunRecord:
    return store.create(CONFIG, TAGS)


def forge_tag(name: str, text: str) -> Callable[[RunRecord], None]:
    def forge(run: RunRecord) -> None:
        run.record.client.set_tag(run.run_id, name, text)

    return forge


def forge_config(run: RunRecord) -> None:
    """Write another configuration, with its digest."""
    artifact(run, "config.json").write_bytes(canonical_json(EVIL.model_dump(mode="json")))
    forge_tag(Tag.CONFIG, digest_bytes(artifact(run, "config.json").read_bytes()))(run)


FORGED = {
    "another configuration": forge_config,
    "a changed setting": forge_tag(f"{Tag.SET}.agent", "claude-cli"),
    "another task": forge_tag(Tag.TASK, "evil"),
    "another digest of the task": forge_tag(Tag.TASK_DIGEST, "e"),
    "another fingerprint": forge_tag(f"{Tag.FINGERPRINT}.task", "e"),
    "another fingerprint more": forge_tag(f"{Tag.FINGERPRINT}.more", "e"),
}


@pytest.mark.parametrize("what", FORGED)
def test_changed_record_is_refused_by_every_reader(store: Record, run: RunRecord, what: str) -> None:
    assert store.open(run.name).config == CONFIG
    held = store.open(run.name)
    FORGED[what](run)
    for read in (lambda: store.open(run.name), lambda: held.config, lambda: Branch.find(store, f"{run.name}:0")):
        with pytest.raises(RecordError, match="was changed by someone else") as caught:
            read()
        assert f"sia adopt {run.name}" in caught.value.hint
    with pytest.raises(RecordError):
        held.change({"generations": 3})


def test_configuration_alone_is_compared_with_its_digest(store: Record, run: RunRecord) -> None:
    artifact(run, "config.json").write_bytes(canonical_json(EVIL.model_dump(mode="json")))
    with pytest.raises(RecordError, match=r"config\.json was changed"):
        _ = store.open(run.name).config


def test_seal_of_another_run_is_worth_nothing(store: Record, run: RunRecord) -> None:
    other = store.create(EVIL, TAGS)
    for name, text in run.tags.items():
        if name.startswith(Tag.SEAL):
            forge_tag(name, text)(other)
    with pytest.raises(RecordError, match="was changed by someone else"):
        store.open(other.name)


def test_change_by_this_home_is_sealed(store: Record, run: RunRecord) -> None:
    store.open(run.name).change({"generations": 5})
    assert store.open(run.name).config.generations == 5


@pytest.fixture
def foreign(store: Record, run: RunRecord, tmp_path: Path) -> Record:
    """Record of the same store that another SIA_HOME opened."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(store.cache / "artifacts", other / "artifacts")
    return Record(store.tracking_uri, None, other)


def test_record_of_another_home_is_refused_until_it_is_adopted(
    foreign: Record, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", (run.record.cache / "artifacts").as_uri())
    with pytest.raises(RecordError, match=r"was not started from this SIA_HOME \(user .+\)") as caught:
        foreign.open(run.name)
    assert f"sia adopt {run.name}" in caught.value.hint
    assert [one.name for one in foreign.summaries()] == [run.name]
    assert foreign.find(run.name).unsealed_config == CONFIG
    foreign.find(run.name).adopt()
    assert foreign.open(run.name).config == CONFIG
    assert run.record.open(run.name).config == CONFIG, "its first home is locked out"


def test_homes_with_one_key_share_their_records(foreign: Record, run: RunRecord) -> None:
    shutil.copy(run.record.cache / "key", foreign.cache / "key")
    assert foreign.open(run.name).name == run.name


def test_key_is_no_part_of_the_record(store: Record, run: RunRecord) -> None:
    key = (store.cache / "key").read_text().strip()
    files = [file for file in store.cache.rglob("*") if file.is_file() and file.name != "key"]
    assert files and not any(key.encode() in file.read_bytes() for file in files)


def elsewhere(run: RunRecord, place: str, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """The run, as a store shows it whose run names another place for its artifacts."""
    get_run = run.record.client.get_run

    def moved(run_id: str) -> Run:
        found = get_run(run_id)
        found.info._artifact_uri = place
        return found

    monkeypatch.setattr(run.record.client, "get_run", moved)
    return RunRecord(run.record, moved(run.run_id))


@pytest.mark.parametrize(
    "place",
    [
        *("/etc", "file:///etc", "file:///etc/../etc", "s3://bucket/1", "mlflow-artifacts:/1", "http://evil/1"),
        *("{home}", "{home}/artifacts", "file://{home}/artifacts/../../x", "{home}/artifacts/../mlflow.db"),
        "{home}/artifacts/link/1",
    ],
)
def test_artifacts_elsewhere_are_neither_read_nor_written(
    run: RunRecord, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = run.record.cache
    (home / "artifacts" / "link").symlink_to(tmp_path)
    moved = elsewhere(run, place.format(home=home), monkeypatch)
    if place == "{home}/artifacts":
        moved.put_json("it.json", 1)  # The root itself is ours.
        return
    for use in (
        lambda: moved.get_bytes("config.json"),
        lambda: moved.put_json("it.json", 1),
        lambda: moved.put_harness(HARNESS),
        lambda: moved.unsealed_config,
    ):
        with pytest.raises(RecordError, match="artifacts lie outside SIA_HOME"):
            use()


def test_root_that_you_name_is_taken(run: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moved = elsewhere(run, (tmp_path / "far" / "1").as_uri(), monkeypatch)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "far"))
    assert moved.get_bytes("nothing.json") is None


def test_server_must_not_name_a_local_place(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.record, "tracking_uri", "http://mlflow:5000")
    with pytest.raises(RecordError, match="artifacts lie outside SIA_HOME"):
        elsewhere(run, "file:///etc", monkeypatch).get_bytes("passwd")


def test_adapter_of_another_place_is_not_read(run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    write_files(tmp_path / "adapter", files)
    digest = digest_files(files)
    run.put_adapter(Adapter(digest, tmp_path / "adapter"))
    found = models.find_adapter(run.record.client, run.experiment_id, run.name, digest)
    assert found is not None
    monkeypatch.setattr(found, "_artifact_location", (tmp_path / "adapter").as_uri())
    monkeypatch.setattr(models, "find_adapter", lambda *_: found)
    with pytest.raises(RecordError, match="artifacts lie outside SIA_HOME"):
        run.adapter(digest)


def test_comparison_of_another_home_is_refused(store: Record, tmp_path: Path) -> None:
    plan = plan_arms(CONFIG, ["harness", "choice"], seeds=1)
    made = ArmsRecord.create(store, "toy", plan.about, plan.model_dump(mode="json"))
    assert ArmsRecord.open(store, made.name).plan == plan.model_dump(mode="json")
    longer = plan_arms(CONFIG, ["harness", "choice"], seeds=2)
    made.set_plan(longer.about, longer.model_dump(mode="json"))
    assert ArmsRecord.open(store, made.name).plan["seeds"] == 2
    forged = plan_arms(EVIL, ["harness", "choice"], seeds=2).model_dump(mode="json")
    made.record.client.set_tag(made.run_id, Tag.CONFIG, digest_bytes(canonical_json(forged)))
    made.put_json(f"plans/{digest_bytes(canonical_json(forged))}.json", forged)
    for read in (lambda: ArmsRecord.open(store, made.name), lambda: made.plan):
        with pytest.raises(RecordError, match="was changed by someone else"):
            read()
    other = Record(store.tracking_uri, None, tmp_path)
    with pytest.raises(RecordError, match="was not started from this SIA_HOME"):
        ArmsRecord.open(other, made.name)
