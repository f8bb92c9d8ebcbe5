"""HTTP details: allowed connections, checks of a response, and whether to retry a request."""

from __future__ import annotations

import asyncio
import email.utils
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpcore2

from cammsr_cli.errors import first_line
from cammsr_cli.media.signatures import media_extension

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolves host and port to IP addresses; raises OSError if there are none."""

# Worth a retry, as is any 5xx: request timeout, too early, too many requests.
_PASSING_STATUS = (408, 425, 429)


class RefusedError(Exception):
    """A permanent failure of a URL: a retry does not help."""


class PassingError(Exception):
    """A temporary failure: a retry may succeed.

    Args:
        reason: Why, in one line.
        after: Seconds that the server requests to wait; None if it does not specify them.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def require_usable(response: httpcore2.Response, max_bytes: int) -> None:
    """Check a response by its status and headers, before its body is read."""
    status = response.status
    if status in _PASSING_STATUS or status >= 500:
        raise PassingError(_status(status), _retry_after(header(response, b"retry-after")))
    if status != 200:
        raise RefusedError(_status(status))
    media_type = (header(response, b"content-type") or "").partition(";")[0].strip().lower()
    if media_type in ("text/html", "application/xhtml+xml"):
        raise RefusedError(f"a web page ({media_type}), not a media file")
    encoding = (header(response, b"content-encoding") or "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RefusedError(f"sent compressed ({encoding[:40]}), which was not asked for")
    length = header(response, b"content-length")
    if length is not None and length.isdecimal() and int(length) > max_bytes:
        raise RefusedError(too_large(max_bytes))


def extension_of(kind: str, head: bytes) -> str:
    """Return the extension of a media file by its first bytes.

    Raises:
        RefusedError: It is not a file of this kind.
    """
    try:
        return media_extension(kind, head)
    except ValueError as error:
        raise RefusedError(str(error)) from None


def too_large(max_bytes: int) -> str:
    """Return the reason why a file of more than `max_bytes` is refused."""
    return f"larger than {max_bytes / 1e6:,.6g} MB"


def _status(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def header(response: httpcore2.Response, name: bytes) -> str | None:
    """Return the value of a header; the last one if it is repeated."""
    values = [value for one, value in response.headers if one.lower() == name]
    if not values:
        return None
    try:
        return values[-1].decode("utf-8")
    except UnicodeDecodeError:
        return values[-1].decode("latin-1")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds to wait, from either form of Retry-After; None if it is invalid."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


@contextmanager
def faults_named(host: str, silence: float) -> Iterator[None]:
    """Turn connection errors into `PassingError` or `RefusedError`, with a reason for the user."""
    try:
        yield
    except httpcore2.ConnectTimeout as error:
        raise PassingError(f"{host} does not answer") from error
    except httpcore2.TimeoutException as error:
        raise PassingError(f"no byte for {silence:g} seconds") from error
    except httpcore2.ConnectError as error:
        if _caused_by(error, ssl.SSLCertVerificationError):
            raise RefusedError(f"the certificate of {host} is not trusted") from error
        raise PassingError(f"{host} cannot be connected to: {first_line(error)}") from error
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
        raise PassingError(f"the connection broke off: {first_line(error)}") from error
    except httpcore2.LocalProtocolError as error:
        raise RefusedError(f"cannot be asked for: {first_line(error)}") from error


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Network backend that connects only to allowed addresses."""

    def __init__(self, resolve: Resolve, reachable: Callable[[str], bool]) -> None:
        self.resolve, self.reachable = resolve, reachable
        self.backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve a host, check all its addresses, and connect to the first that answers.

        Raises:
            RefusedError: One of its addresses is not allowed.
            httpcore2.ConnectError: None of them answers.
        """
        try:
            addresses = await self.resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(error.strerror or str(error)) from error
        for address in addresses:
            if not self.reachable(address):
                raise RefusedError(
                    f"{host} is at the private address {address}; "
                    "--allow-private-hosts would allow it"
                )
        last: Exception = httpcore2.ConnectError("it has no address")
        for address in addresses:
            try:
                return await self.backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
        raise last

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
