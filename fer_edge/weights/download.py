"""HTTP download of one file: resumed after interruptions, verified, and atomic on disk."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from fer_edge._utils.files import file_lock, sha256_of
from fer_edge._utils.progress import Progress
from fer_edge._utils.version import __version__
from fer_edge.errors import DownloadError
from fer_edge.weights.http import (
    Redirects,
    check_address,
    declared_sha256,
    is_loopback,
    reason_of,
    retry_after_s,
    validator_of,
    whole_number,
)
from fer_edge.weights.partial_file import DiskError, PartialFile, Version, disk_error, part_of

__all__ = [
    "DEFAULT_OPTIONS",
    "DiskError",
    "DownloadOptions",
    "Downloaded",
    "download",
    "only_one",
    "part_of",
]

_BLOCK_BYTES = 1 << 20
#: An attempt that receives less counts as failed, so that a server that always breaks off early ends the download.
_FAIR_SHARE_BYTES = 1 << 20
_REPORT_EVERY_S = 0.25
#: Beginnings of answers that are not the file: error and login pages, Git LFS pointers.
_NO_FILE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"version https://git-lfs")
_TEMPORARY = (408, 425, 429)


class _Temporary(Exception):
    """A temporary failure, to be retried after ``wait_s`` if the server gives it."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Altered(Exception):
    """The received bytes are not those of the requested file."""


@dataclass(frozen=True)
class DownloadOptions:
    """Limits of one download.

    Attributes
    ----------
    silence_s : float
        Timeout for connecting and for each read.
    attempts : int
        Number of consecutive failed attempts, each resumed where the last one ended.
    first_wait_s, longest_wait_s : float
        Wait between attempts, doubled each time; a server's ``Retry-After`` is honoured up to the longest.
    largest_bytes : int
        Larger files are refused.
    spare_bytes : int
        Disk space that must stay free.
    """

    silence_s: float = 20.0
    attempts: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    largest_bytes: int = 2 << 30
    spare_bytes: int = 64 << 20


DEFAULT_OPTIONS = DownloadOptions()


@dataclass(frozen=True)
class Downloaded:
    """A downloaded file: its sha256, size and address."""

    path: Path
    sha256: str
    size_bytes: int
    address: str


def download(
    address: str,
    path: Path,
    on_progress: Progress = lambda stage, done, total: None,
    *,
    sha256: str | None = None,
    least_bytes: int = 1,
    options: DownloadOptions = DEFAULT_OPTIONS,
) -> Downloaded:
    """Download ``address`` to ``path``, which must not exist; call it with :func:`only_one` held.

    Parameters
    ----------
    address : str
        ``https``, or ``http`` of a mirror. Redirects are followed to ``https`` only, on loopback also to ``http``.
    path : Path
        Appears when the file is complete. Until then the received part lies at :func:`part_of`, with a record of the
        version of the file, so that a later call can resume it.
    on_progress : callable
        Called with ("fetching NAME", received bytes, total bytes), several times a second while data arrives.
    sha256 : str, optional
        Expected sha256. One that the server declares (``X-Linked-ETag``) is required too.
    least_bytes : int
        Smaller files are refused.

    Raises
    ------
    DownloadError
        If the file does not arrive complete. The message holds the address and the reason.
    """
    check_address(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _Download(address, path, on_progress, sha256, least_bytes, options).run()


@contextmanager
def only_one(
    path: Path, on_wait: Callable[[], object] = lambda: None, every_s: float = 0.2
) -> Iterator[None]:
    """Wait until no other process downloads ``path``; the lock is released when its process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(path.with_name(f".{path.name}.lock"), every_s)

    def keep_waiting() -> bool:
        on_wait()
        return False  # never cancel

    lock.acquire(cancel_check=keep_waiting)
    try:
        yield
    finally:
        lock.release()


class _Download:
    """One file from one address, over several attempts."""

    def __init__(
        self,
        address: str,
        path: Path,
        on_progress: Progress,
        sha256: str | None,
        least_bytes: int,
        options: DownloadOptions,
    ) -> None:
        self._address, self._path, self._options = address, path, options
        self._sha256, self._least_bytes = sha256, least_bytes
        self._on_progress = on_progress
        self._part = PartialFile(path, address)
        self._total = 0
        self._reported_s = 0.0
        self._resumed = False
        self._redirects = Redirects()
        handlers: list[urllib.request.BaseHandler] = [self._redirects]
        if is_loopback(urllib.parse.urlsplit(address).netloc):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy cannot reach servers on loopback
        self._opener = urllib.request.build_opener(*handlers)
        self._opener.addheaders = []

    def run(self) -> Downloaded:
        """Download, and give up after too many consecutive failed attempts."""
        failed, restarted = 0, False
        while True:
            before = self._part.size()
            try:
                self._attempt()
                found = self._checked()
                self._part.finish()
                return found
            except _Altered as error:
                self._part.forget()
                if restarted or not self._resumed:
                    raise DownloadError(f"{self._address} ({error})") from error
                restarted, self._resumed = True, False  # the received part may be of another version
            except _Temporary as error:
                failed = 0 if self._part.size() - before >= _FAIR_SHARE_BYTES else failed + 1
                if failed >= self._options.attempts:
                    raise DownloadError(f"{self._address} ({error}, tried {failed} times)") from error
                wait_s = self._options.first_wait_s * 2 ** max(0, failed - 1)
                self._wait(min(max(wait_s, error.wait_s or 0.0), self._options.longest_wait_s))
            except DiskError:
                raise
            except DownloadError as error:
                raise DownloadError(f"{self._address} ({error})") from error

    def _attempt(self) -> None:
        """Append the missing bytes; return when the file has its full length."""
        known = self._part.version()
        start = self._part.size() if known else 0
        headers = {"User-Agent": f"fer-edge/{__version__}", "Accept-Encoding": "identity"}
        if known and start:
            self._resumed = True
            self._redirects.declared = self._redirects.declared or known.sha256
            if start == known.total_bytes:  # a process ended after the last byte and before the rename
                return
            headers |= {"Range": f"bytes={start}-", "If-Range": known.validator}
        try:
            answer = self._open(urllib.request.Request(self._address, headers=headers))
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise DownloadError(f"the server's certificate is not trusted, {error}") from error
            raise _Temporary(reason_of(error)) from error
        with answer:
            try:
                self._receive(answer, self._begin(answer, start, known))
            except OSError as error:
                raise disk_error(error, self._part.path) from error

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            return self._opener.open(request, timeout=self._options.silence_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:
                    raise _Altered("the server's file is shorter than the received part") from None
                text = " ".join(f"HTTP {error.code} {error.reason}".split())  # several lines after redirects
                if error.code < 500 and error.code not in _TEMPORARY:
                    raise DownloadError(text) from None
                raise _Temporary(text, retry_after_s(error.headers)) from None

    def _begin(self, answer: http.client.HTTPResponse, start: int, known: Version | None) -> int:
        """Check the response headers; return the offset of its bytes in the file."""
        if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise DownloadError("the server sent a web page, expected a file")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError("the server sent a compressed file, which was not requested")
        length = whole_number(answer.headers.get("Content-Length"))
        if answer.status == 206 and start and known:
            total = self._total_of_part(answer.headers, start, length, known)
        elif answer.status == 200:
            start, total = 0, length or 0
            if length is None and not answer.chunked:
                raise DownloadError("the server does not declare the length of the file")
        else:
            raise DownloadError(f"HTTP {answer.status}, expected 200")
        self._check_size(total or start)
        if total and total < self._least_bytes:
            raise DownloadError(f"the file has {total} bytes, expected at least {self._least_bytes}")
        self._part.check_space(total - start, self._options.spare_bytes)
        self._total = total
        if not start:
            self._part.forget()
            self._redirects.declared = declared_sha256(answer.headers) or self._redirects.declared
            if validator := validator_of(answer.headers):
                self._part.remember(Version(validator, total, self._redirects.declared))
        return start

    def _total_of_part(self, headers: Message, start: int, length: int | None, known: Version) -> int:
        """Return the total length of the file from the headers of a response that begins at ``start``."""
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""))
        if not found:
            raise _Altered("the server's Content-Range cannot be read")
        first, last, total = map(int, found.groups())
        asked = first == start and last == total - 1 and length in (None, total - first)
        same = known.total_bytes in (0, total) and validator_of(headers) == known.validator
        if not asked or not same:
            raise _Altered("the server sent another part of the file than requested")
        return total

    def _receive(self, answer: http.client.HTTPResponse, start: int) -> None:
        done = start
        self._report(done, always=True)
        with self._part.path.open("r+b" if self._part.path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while block := _next_block(answer):
                if done == 0 and block[:64].lstrip().lower().startswith(_NO_FILE):
                    raise DownloadError("the server sent a page of text, expected a file")
                done += len(block)
                self._check_size(done)
                if self._total and done > self._total:
                    raise DownloadError(f"the file is longer than the declared {self._total} bytes")
                file.write(block)
                file.flush()  # if this process is killed, the next one resumes here
                self._report(done)
            os.fsync(file.fileno())
        if self._total and done < self._total:
            raise _Temporary(f"the connection broke off after {done} of {self._total} bytes")
        self._report(done, always=True)

    def _checked(self) -> Downloaded:
        """Verify the size and sha256 of the received file."""
        size, found = self._part.size(), sha256_of(self._part.path)
        if size < self._least_bytes:
            self._part.forget()
            raise DownloadError(f"the file has {size} bytes, expected at least {self._least_bytes}")
        required = ((self._redirects.declared, "the server declares"), (self._sha256, "is required"))
        for expected, whose in required:
            if expected is not None and found != expected:
                raise _Altered(f"the sha256 is {found}, {expected} {whose}")
        return Downloaded(self._path, found, size, self._address)

    def _check_size(self, size: int) -> None:
        if size > self._options.largest_bytes:
            raise DownloadError(
                f"the file has {size} bytes or more, expected at most {self._options.largest_bytes}"
            )

    def _report(self, done: int, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._reported_s >= _REPORT_EVERY_S:
            self._reported_s = now
            self._on_progress(f"fetching {self._path.name}", done, self._total)

    def _wait(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left := end_s - time.monotonic()) > 0:
            self._report(self._part.size())
            time.sleep(min(left, 1.0))


def _next_block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(_BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Temporary(reason_of(error)) from error
