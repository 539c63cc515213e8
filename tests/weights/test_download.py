"""Downloads from a server that breaks off, stalls, misreports and refuses; killed and resumed; concurrent."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import Behaviour, Server, serving

from fer_edge.errors import DownloadError, UsageError
from fer_edge.weights.download import DiskError, DownloadOptions, download, only_one, part_of

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FAST = DownloadOptions(silence_s=0.3, first_wait_s=0.01, longest_wait_s=0.3)
CUT = Behaviour(cut=200_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/file": CONTENT, "/other": CONTENT[::-1]}) as running:
        yield running


def fetch(server: Server, path: Path, **more: object) -> bytes:
    options = more.pop("options", FAST)
    found = download(f"{server.address}/file", path, options=options, **more)  # type: ignore[arg-type]
    content = path.read_bytes()
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.size_bytes == len(content)
    return content


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_and_its_progress_is_told(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    assert fetch(server, tmp_path / "new" / "file", on_progress=lambda *p: told.append(p)) == CONTENT
    assert told[0] == ("fetching file", 0, len(CONTENT))
    assert told[-1] == ("fetching file", len(CONTENT), len(CONTENT))
    assert left(tmp_path / "new") == {"file"}
    assert not {"authorization", "cookie", "referer"} & set(server.seen[0][1])


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([CUT], [None, "bytes=200000-"]),
        ([Behaviour(pause_s=1, pause_at=100_000)], [None, "bytes=100000-"]),
        ([Behaviour(pause_s=1)], [None, None]),
        ([Behaviour(status=503)], [None, None]),
        ([Behaviour(status=429, headers={"Retry-After": "1"})], [None, None]),
        ([Behaviour(status=429, headers={"Retry-After": "Fri, 27 Nov 2099 12:00:00 GMT"})], [None, None]),
        ([CUT, Behaviour(ranges=False)], [None, "bytes=200000-"]),
        ([CUT, Behaviour(status=416)], [None, "bytes=200000-", None]),
        ([CUT, Behaviour(headers={"Content-Range": "bytes 5-511999/512000"})], [None, "bytes=200000-", None]),
        ([CUT, Behaviour(headers={"Content-Range": "all of it"})], [None, "bytes=200000-", None]),
        ([CUT, Behaviour(headers={"ETag": '"other"'})], [None, "bytes=200000-", None]),
        ([Behaviour(cut=200_000, headers={"ETag": 'W/"weak"'})], [None, None]),
        ([Behaviour(headers={"Content-Length": "700000"})], [None, "bytes=512000-", None]),
    ],
)  # fmt: skip
def test_what_fails_once_is_tried_again_from_where_it_ended(
    server: Server, tmp_path: Path, script: list[Behaviour], ranges: list[str | None]
) -> None:
    server.script = list(script)
    assert fetch(server, tmp_path / "file") == CONTENT
    assert server.ranges == ranges
    assert left(tmp_path) == {"file"}


def test_last_modified_identifies_a_file_without_a_tag(server: Server, tmp_path: Path) -> None:
    date = "Sat, 30 Nov 2019 13:32:00 GMT"
    server.script = [Behaviour(cut=1000, headers={"ETag": None, "Last-Modified": date})]
    assert fetch(server, tmp_path / "file") == CONTENT
    assert server.seen[1][1]["if-range"] == date


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(status=404), "HTTP 404"),
        (Behaviour(status=403), "HTTP 403"),
        (Behaviour(status=500), r"HTTP 500 .*, tried 3 times\)"),
        (Behaviour(status=429, headers={"Retry-After": "3600"}), r"HTTP 429 .*, tried 3 times\)"),
        (Behaviour(cut=1000, ranges=False), "broke off after 1000 of 512000 bytes"),
        (Behaviour(pause_s=1), "the server did not answer in time"),
        (Behaviour(headers={"Content-Length": "999"}), "the file has 999 bytes, expected at least 500000"),
        (Behaviour(headers={"Content-Length": "513000"}), "the server's file is shorter than the received part"),
        (Behaviour(headers={"Content-Length": "5000000000"}), "expected at most 2147483648"),
        (Behaviour(headers={"Content-Length": None}), "does not declare the length"),
        (Behaviour(headers={"Content-Type": "text/html; charset=utf-8"}), "a web page"),
        (Behaviour(body=b"\n <!DOCTYPE html>" + bytes(600_000)), "a page of text"),
        (Behaviour(body=b"version https://git-lfs.github.com/spec/v1" + bytes(600_000)), "a page of text"),
        (Behaviour(headers={"Content-Encoding": "gzip"}), "a compressed file"),
        (Behaviour(headers={"X-Linked-ETag": f'"{"0" * 64}"'}), "the server declares"),
        (Behaviour(status=302, headers={"Location": "http://example.com/file"}), "expected https"),
        (Behaviour(status=302, headers={"Location": "file:///etc/passwd"}), "is not allowed"),
        (Behaviour(status=302, headers={"Location": "https://me:secret@example.com/"}), "without credentials"),
        (Behaviour(status=302, headers={"Location": "/file"}), "HTTP 302"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_names_address_and_reason(
    server: Server, tmp_path: Path, behaviour: Behaviour, message: str
) -> None:
    server.always = behaviour
    with pytest.raises(DownloadError, match=rf"{server.address}/file \(.*{message}") as error:
        fetch(server, tmp_path / "file", least_bytes=500_000)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "file").exists()


def test_a_page_does_not_cost_what_has_arrived(server: Server, tmp_path: Path) -> None:
    server.script = [CUT, Behaviour(status=404)]
    with pytest.raises(DownloadError, match="404"):
        fetch(server, tmp_path / "file")
    server.script = [Behaviour(headers={"Content-Type": "text/html"}, ranges=False)]
    with pytest.raises(DownloadError, match="web page"):
        fetch(server, tmp_path / "file")
    assert fetch(server, tmp_path / "file") == CONTENT
    assert server.ranges[-1] == "bytes=200000-"


def test_a_redirect_on_loopback_is_followed(server: Server, tmp_path: Path) -> None:
    declared = {"Location": f"{server.address}/other", "X-Linked-ETag": f'"{SHA256}"'}
    server.script = [Behaviour(status=302, headers={"Location": f"{server.address}/other"})]
    assert fetch(server, tmp_path / "other") == CONTENT[::-1]
    server.script = [Behaviour(status=302, headers=declared)]
    with pytest.raises(DownloadError, match=f"{SHA256} the server declares"):
        fetch(server, tmp_path / "file")


def test_other_bytes_under_the_same_tag_are_noticed_by_the_sha256(server: Server, tmp_path: Path) -> None:
    same = {"ETag": '"same"'}
    server.script = [
        Behaviour(cut=1000, headers=same, body=CONTENT[::-1]),
        Behaviour(headers=same, always_partial=True),
    ]
    assert fetch(server, tmp_path / "file", sha256=SHA256) == CONTENT
    assert server.ranges == [None, "bytes=1000-", None]
    with pytest.raises(DownloadError, match=f"the sha256 is {SHA256}, {'0' * 64} is required"):
        fetch(server, tmp_path / "again", sha256="0" * 64)
    assert left(tmp_path) == {"file"}


def test_nobody_listens(tmp_path: Path) -> None:
    with serving({}) as gone:
        pass
    with pytest.raises(DownloadError, match="Connection refused"):
        download(f"{gone.address}/file", tmp_path / "file", options=FAST)


@pytest.mark.parametrize(
    "address", ["ftp://host/x", "file:///etc/passwd", "https:///x", "http://[::1", "https://me:secret@host/x"]
)
def test_addresses_of_other_kinds_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="Fix: give an address such as https") as error:
        download(address, tmp_path / "file")
    assert "secret" not in str(error.value)


def test_a_full_disk_is_noticed_before_and_while_writing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage(400_000))
        with pytest.raises(DiskError, match=r"0 MB free.*FER_EDGE_CACHE"):
            fetch(server, tmp_path / "file", options=DownloadOptions(spare_bytes=0))
    assert left(tmp_path) == set()
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(full))
    with pytest.raises(DiskError, match=r"\(the disk is full\)\. Fix: free disk space"):
        fetch(server, tmp_path / "file")


CHILD = """
import sys
from pathlib import Path
from fer_edge.weights.download import download, only_one
path = Path(sys.argv[2])
with only_one(path):
    if path.exists():
        print("there")
    else:
        download(sys.argv[1], path)
        print("fetched")
"""


def child(server: Server, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, f"{server.address}/file", str(path)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.script = [Behaviour(rate=100_000)]
    path, process = tmp_path / "file", child(server, tmp_path / "file")
    end_s = time.monotonic() + 30
    while not (part_of(path).exists() and part_of(path).stat().st_size > 20_000) and time.monotonic() < end_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()
    arrived = part_of(path).stat().st_size
    with only_one(path):  # the lock went with its process
        assert fetch(server, path) == CONTENT
    assert server.ranges == [None, f"bytes={arrived}-"]
    assert left(tmp_path) == {"file", ".file.lock"}


def test_of_two_processes_one_fetches(server: Server, tmp_path: Path) -> None:
    server.script = [Behaviour(rate=1_000_000)]
    processes = [child(server, tmp_path / "file") for _ in range(2)]
    assert sorted(p.communicate(timeout=60)[0].strip() for p in processes) == ["fetched", "there"]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(server.seen) == 1


def test_a_part_that_has_all_bytes_needs_no_server(server: Server, tmp_path: Path) -> None:
    """The process was killed after the last byte and before the rename."""
    server.script = [CUT, Behaviour(status=404)]
    with pytest.raises(DownloadError, match="404"):
        fetch(server, tmp_path / "file")
    with part_of(tmp_path / "file").open("ab") as part:
        part.write(CONTENT[200_000:])
    assert fetch(server, tmp_path / "file") == CONTENT
    assert len(server.seen) == 2
