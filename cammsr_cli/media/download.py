"""Downloads the pictures and clips of a catalogue into the media cache.

A catalogue's URLs come from strangers, and so does what they answer. Therefore:

- A host's addresses are checked when it is connected to, and the connection goes to the address
  that was checked, for redirects too: neither a redirect nor a name that changes its address
  reaches a private network. Proxies named in the environment are not used.
- Every transfer has limits of size, of silence and of time in all; nothing is decompressed.
- What is kept is judged by its first bytes, not by what the server calls it.
- A host gets a few connections at a time, is asked again after growing pauses (or when it says,
  by Retry-After), and is given up on when it fails time and again.
"""

from __future__ import annotations

import asyncio
import email.utils
import http
import random
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpcore2

from cammsr_cli import __version__
from cammsr_cli.errors import first_line
from cammsr_cli.media.addresses import is_public, parse_url
from cammsr_cli.media.cache import MediaCache
from cammsr_cli.media.signatures import HEAD_BYTES, media_extension

Progress = Callable[[int, int, int], None]
"""Called with URLs done (those that failed, too), URLs in all, and failed ones."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to its IP addresses; raises OSError if there are none."""

_REDIRECTS = 5
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
# Worth asking again: too early, too often, or the server's own trouble.
_PASSING_STATUS = (408, 425, 429)
_LONGEST_PAUSE = 60.0
# So many URLs of a host failing in a row, and nothing else from it, end what is asked of it.
_HOST_FAILURES = 20
_CONNECT_SECONDS = 10.0


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class DownloadOptions:
    """How media are downloaded.

    Attributes:
        reachable: Whether an IP address may be connected to.
        connections: Transfers at a time.
        per_host: Transfers at a time from one host; redirects count where they began.
        tries: How often a URL is asked for before it is given up.
        max_bytes: Larger files are refused.
        seconds: A transfer takes so long at most, redirects and all.
        silence: Seconds without a byte before a transfer is broken off.
        pause: Seconds before a second try; doubled for each further one.
        resolve: How host names become addresses.
    """

    reachable: Callable[[str], bool] = is_public
    connections: int = 16
    per_host: int = 4
    tries: int = 4
    max_bytes: int = 200_000_000
    seconds: float = 300.0
    silence: float = 30.0
    pause: float = 1.0
    resolve: Resolve = _resolve


def any_address(_address: str) -> bool:
    """For `DownloadOptions.reachable`: private networks too."""
    return True


@dataclass
class Downloads:
    """What became of a catalogue's URLs.

    Attributes:
        cache: Where the files are; None if there is no cache.
        urls: How many distinct URLs there are.
        cached: Those that were there from earlier runs.
        fetched: Those downloaded now.
        bytes: Downloaded now and kept.
        failures: URL to the reason, in one line, for those that could not be had.
        pending: Whether a URL that is not there would yet be downloaded: so in a plan.
    """

    cache: MediaCache | None = None
    urls: int = 0
    cached: int = 0
    fetched: int = 0
    bytes: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    pending: bool = False

    def find(self, url: str) -> Path | str | None:
        """The file a URL gave, the reason why there is none, or None if it is yet to be had."""
        path = self.cache.find(url) if self.cache else None
        if path is not None:
            return path
        if url in self.failures:
            return f"not downloaded: {self.failures[url]}"
        return None if self.pending else "not downloaded"


def look_up(urls: Iterable[str], cache: MediaCache) -> Downloads:
    """Which of the URLs are in the cache already; the others are pending, if they are sound."""
    result = Downloads(cache, pending=True)
    for url in urls:
        result.urls += 1
        if cache.find(url) is not None:
            result.cached += 1
            continue
        try:
            parse_url(url)
        except ValueError as refused:
            result.failures[url] = str(refused)
    return result


def download(
    urls: Mapping[str, str],
    cache: MediaCache,
    options: DownloadOptions | None = None,
    progress: Progress | None = None,
) -> Downloads:
    """Download what is not in the cache yet.

    What could not be had is no error here: it is in the result's `failures`, and is tried again by
    the next run. A run that is killed keeps every file it had finished.

    Args:
        urls: Each URL with the item field that names it ("image", "video").
        cache: Where the files go.
        options: Limits; the defaults if None.
        progress: Called after each URL.

    Raises:
        CammsrError: If the cache cannot be written to.
    """
    cache.remove_left_behind()
    result = Downloads(cache, urls=len(urls))
    missing = {url: kind for url, kind in urls.items() if cache.find(url) is None}
    result.cached = len(urls) - len(missing)
    told = progress or (lambda _done, _total, _failed: None)
    told(result.cached, result.urls, 0)
    if missing:
        asyncio.run(_Run(options or DownloadOptions(), result, told).all_of(missing))
    return result


class _RefusedError(Exception):
    """A URL that will not be had, however often it is asked for."""


class _PassingError(Exception):
    """A failure that may pass.

    Args:
        reason: Why, in one line.
        after: Seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class _Host:
    """One host's URLs, and how it has behaved.

    Attributes:
        waiting: URLs still to fetch.
        not_before: On the event loop's clock: when it wants to be asked again.
        failures: URLs in a row that were given up because of it.
        given_up: Why nothing more is asked of it; None if more is.
    """

    name: str
    waiting: deque[str] = field(default_factory=deque)
    not_before: float = 0.0
    failures: int = 0
    given_up: str | None = None


class _Run:
    """One run over many URLs, in one event loop."""

    def __init__(self, options: DownloadOptions, result: Downloads, progress: Progress) -> None:
        assert result.cache is not None
        self.options, self.result, self.progress = options, result, progress
        self.cache = result.cache
        self.kinds: Mapping[str, str] = {}
        # A host stands in here once for each transfer that it may get at a time.
        self.turns: deque[_Host] = deque()

    async def all_of(self, urls: Mapping[str, str]) -> None:
        """Fetch each URL into the cache, or write down why not."""
        self.kinds = urls
        hosts: dict[str, _Host] = {}
        for url in urls:
            try:
                name = parse_url(url).host
            except ValueError as refused:
                self._fail(url, str(refused))
                continue
            hosts.setdefault(name, _Host(name)).waiting.append(url)
        self.turns.extend(
            host
            for turn in range(self.options.per_host)
            for host in hosts.values()
            if turn < len(host.waiting)
        )
        pool = httpcore2.AsyncConnectionPool(
            max_connections=self.options.connections,
            network_backend=_CheckedBackend(self.options),
        )
        try:
            # One worker's error ends the others before the pool is closed under them.
            async with pool, asyncio.TaskGroup() as workers:
                for _ in range(self.options.connections):
                    workers.create_task(self._worker(pool))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _worker(self, pool: httpcore2.AsyncConnectionPool) -> None:
        """Serve the hosts in turn; a turn that another worker holds is handed back by it."""
        while self.turns:
            host = self.turns.popleft()
            if not host.waiting:
                continue
            url = host.waiting.popleft()
            reason = await self._fetch(pool, url, host)
            if reason is None:
                self.result.fetched += 1
                self._tell()
            else:
                self._fail(url, reason)
            self.turns.append(host)

    def _fail(self, url: str, reason: str) -> None:
        self.result.failures[url] = reason
        self._tell()

    def _tell(self) -> None:
        result = self.result
        done = result.cached + result.fetched + len(result.failures)
        self.progress(done, result.urls, len(result.failures))

    async def _fetch(
        self, pool: httpcore2.AsyncConnectionPool, url: str, host: _Host
    ) -> str | None:
        """Ask for one URL until it is had or given up; returns why it was given up."""
        clock = asyncio.get_running_loop()
        reason = ""
        for attempt in range(self.options.tries):
            while host.given_up is None and (early := host.not_before - clock.time()) > 0:
                await asyncio.sleep(early)
            if host.given_up is not None:
                return host.given_up
            try:
                async with asyncio.timeout(self.options.seconds):
                    await self._transfer(pool, url)
            except _RefusedError as refused:
                host.failures = 0
                return first_line(refused)
            except TimeoutError:
                # As slow a second time, most likely; the time was given.
                reason = f"not done after {self.options.seconds:g} seconds"
                break
            except _PassingError as passing:
                reason = first_line(passing)
                if passing.after is not None:
                    if passing.after > _LONGEST_PAUSE:
                        reason += f", and asks to wait {passing.after:,.0f} seconds"
                        host.given_up = f"{host.name} was given up on: {reason}"
                        return reason
                    host.not_before = max(host.not_before, clock.time() + passing.after)
                elif attempt + 1 < self.options.tries:
                    pause = min(_LONGEST_PAUSE, self.options.pause * 2**attempt)
                    await asyncio.sleep(pause * random.uniform(0.5, 1))
            else:
                host.failures = 0
                return None
        host.failures += 1
        if host.failures >= _HOST_FAILURES:
            host.given_up = (
                f"{host.name} was given up on after {host.failures} failures in a row: {reason}"
            )
        return reason

    async def _transfer(self, pool: httpcore2.AsyncConnectionPool, url: str) -> None:
        """One try at one URL, redirects followed.

        Raises:
            _RefusedError: It will not be had.
            _PassingError: It may be had another time.
        """
        at = url
        for _ in range(_REDIRECTS + 1):
            try:
                target = parse_url(at)
            except ValueError as refused:
                raise _RefusedError(f"redirected to {at[:200]}: {refused}") from None
            to = httpcore2.URL(
                scheme=target.scheme, host=target.host, port=target.port, target=target.target
            )
            headers = [
                ("Host", target.authority),
                ("User-Agent", f"cammsr/{__version__}"),
                ("Accept", "image/*, video/*, */*;q=0.1"),
                ("Accept-Encoding", "identity"),
            ]
            limits = {"connect": _CONNECT_SECONDS, "read": self.options.silence}
            limits |= {"write": self.options.silence}
            with _told(target.host, self.options.silence):
                async with pool.stream(
                    "GET", to, headers=headers, extensions={"timeout": limits}
                ) as response:
                    location = _header(response, b"location")
                    if response.status not in _REDIRECT_STATUS or location is None:
                        await self._receive(response, url)
                        return
            at = urljoin(str(target), location)
        raise _RefusedError(f"more than {_REDIRECTS} redirects")

    async def _receive(self, response: httpcore2.Response, url: str) -> None:
        """Put an answer's body into the cache, if it is what was asked for."""
        _require_usable(response, self.options.max_bytes)
        kind = self.kinds[url]
        with self.cache.download() as file:
            head, extension = b"", None
            async for chunk in response.aiter_stream():
                if file.bytes + len(head) + len(chunk) > self.options.max_bytes:
                    raise _RefusedError(_too_large(self.options.max_bytes))
                if extension is None:
                    head += chunk
                    if len(head) < HEAD_BYTES:
                        continue
                    extension = _extension(kind, head[:HEAD_BYTES])
                    chunk, head = head, b""
                file.write(chunk)
            if extension is None:
                extension = _extension(kind, head)
                file.write(head)
            file.keep(url, extension)
            self.result.bytes += file.bytes


def _require_usable(response: httpcore2.Response, max_bytes: int) -> None:
    """Judge an answer by its status and headers, before its body is read."""
    status = response.status
    if status in _PASSING_STATUS or status >= 500:
        raise _PassingError(_status(status), _retry_after(_header(response, b"retry-after")))
    if status != 200:
        raise _RefusedError(_status(status))
    media_type = (_header(response, b"content-type") or "").partition(";")[0].strip().lower()
    if media_type in ("text/html", "application/xhtml+xml"):
        raise _RefusedError(f"a web page ({media_type}), not a media file")
    encoding = (_header(response, b"content-encoding") or "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise _RefusedError(f"sent compressed ({encoding[:40]}), which was not asked for")
    length = _header(response, b"content-length")
    if length is not None and length.isdecimal() and int(length) > max_bytes:
        raise _RefusedError(_too_large(max_bytes))


def _extension(kind: str, head: bytes) -> str:
    try:
        return media_extension(kind, head)
    except ValueError as error:
        raise _RefusedError(str(error)) from None


def _too_large(max_bytes: int) -> str:
    return f"larger than {max_bytes / 1e6:,.6g} MB"


def _status(status: int) -> str:
    try:
        return f"HTTP {status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    """A header's value; the last, if it is given more than once."""
    values = [value for one, value in response.headers if one.lower() == name]
    if not values:
        return None
    try:
        return values[-1].decode("utf-8")
    except UnicodeDecodeError:
        return values[-1].decode("latin-1")


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from either form of Retry-After; None if it says nothing to be read."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


@contextmanager
def _told(host: str, silence: float) -> Iterator[None]:
    """Turn what goes wrong on a connection into what is told of it."""
    try:
        yield
    except httpcore2.ConnectTimeout as error:
        raise _PassingError(f"{host} does not answer") from error
    except httpcore2.TimeoutException as error:
        raise _PassingError(f"no byte for {silence:g} seconds") from error
    except httpcore2.ConnectError as error:
        if _caused_by(error, ssl.SSLCertVerificationError):
            raise _RefusedError(f"the certificate of {host} is not trusted") from error
        raise _PassingError(f"{host} cannot be connected to: {first_line(error)}") from error
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
        raise _PassingError(f"the connection broke off: {first_line(error)}") from error
    except httpcore2.LocalProtocolError as error:
        raise _RefusedError(f"cannot be asked for: {first_line(error)}") from error


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


class _CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that may be reached, and to no others."""

    def __init__(self, options: DownloadOptions) -> None:
        self.options = options
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
            _RefusedError: One of its addresses may not be reached.
            httpcore2.ConnectError: None of them answers.
        """
        try:
            addresses = await self.options.resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(error.strerror or str(error)) from error
        for address in addresses:
            if not self.options.reachable(address):
                raise _RefusedError(
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
