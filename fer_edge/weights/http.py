"""HTTP for downloads: redirects, validators (ETag, Last-Modified), Retry-After."""

from __future__ import annotations

import http.client
import ipaddress
import re
import time
import urllib.parse
import urllib.request
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any

from fer_edge.errors import DownloadError, UsageError

SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_REDIRECTS = 5


def check_address(address: str) -> None:
    """Refuse an address that is not HTTP or holds credentials.

    Raises
    ------
    UsageError
        If it is.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        named = parts.username is not None or parts.password is not None
    except ValueError:
        usable, named = False, False
    if not usable or named:
        shown = "one with a user name" if named else address
        raise UsageError(
            f"expected an address without user name and password, found {shown!r:.200}. "
            "Fix: give an address such as https://host/path"
        )


class Redirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler for https targets, on loopback also http; keeps the sha256 that a large-file server declares."""

    max_redirections = _MAX_REDIRECTS

    def __init__(self) -> None:
        self.declared: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.declared = declared_sha256(headers) or self.declared
        parts = urllib.parse.urlsplit(newurl)
        local = is_loopback(urllib.parse.urlsplit(req.full_url).netloc) and is_loopback(parts.netloc)
        secure = parts.scheme == "https" or (parts.scheme == "http" and local)
        if not secure or parts.username or parts.password:
            fp.close()
            raise DownloadError(
                f"the server redirects to {newurl!r:.200}, expected https without credentials"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def validator_of(headers: Message) -> str | None:
    """Return the validator of the file version for ``If-Range``: a strong ETag, else Last-Modified."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def declared_sha256(headers: Message) -> str | None:
    """Return the sha256 that Hugging Face declares for a large file."""
    text = headers.get("X-Linked-ETag", "").strip('"').lower()
    return text if SHA256.fullmatch(text) else None


def whole_number(text: str | None) -> int | None:
    """Return the number in a header, ``None`` for any other text."""
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) else None


def retry_after_s(headers: Message) -> float | None:
    """Return the seconds until the next attempt from ``Retry-After``; ``None`` without a valid header."""
    text = headers.get("Retry-After", "")
    if (seconds := whole_number(text)) is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def is_loopback(host_and_port: str) -> bool:
    """Return ``True`` if a host, with or without a port, is this machine."""
    host = urllib.parse.urlsplit(f"//{host_and_port}").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reason_of(error: Exception) -> str:
    """Return a text with the reason why a connection failed."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server did not answer in time"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection broke off"
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)
