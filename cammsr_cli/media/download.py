"""Downloads the images and videos of a catalogue into the media cache.

URLs of a catalogue and the responses of their servers are untrusted input. Therefore:

- The addresses of a host are checked at connection time, and the connection uses a checked address.
  This also holds for redirects. Neither a redirect nor a host name that changes its address (DNS
  rebinding) reaches a private network. Proxy settings in the environment are ignored.
- Every transfer has a size limit, an idle timeout and a total time limit; nothing is decompressed.
- The type of a file is determined by its first bytes, not by the server's Content-Type.
- Each host gets only a few connections at a time. Requests are repeated after increasing pauses, or
  after the pause that the server requests with Retry-After. After repeated failures, no further
  requests are sent to a host.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import httpcore2

from cammsr_cli import __version__
from cammsr_cli.errors import first_line
from cammsr_cli.media.addresses import is_public, parse_url
from cammsr_cli.media.cache import MediaCache
from cammsr_cli.media.http import (
    CheckedBackend,
    PassingError,
    RefusedError,
    Resolve,
    extension_of,
    faults_named,
    header,
    require_usable,
    too_large,
)
from cammsr_cli.media.signatures import HEAD_BYTES

Progress = Callable[[int, int, int], None]
"""Called with the numbers of finished (also failed), of all, and of failed URLs."""


_REDIRECTS = 5
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
_LONGEST_PAUSE = 60.0
# After so many failures in a row, no further requests are sent to a host.
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
        reachable: Returns whether a connection to an IP address is allowed.
        connections: Maximum number of simultaneous transfers.
        per_host: Maximum number of simultaneous transfers per host; a redirect counts for the
            original host.
        tries: Maximum number of requests per URL.
        max_bytes: Maximum file size; larger files are refused.
        seconds: Time limit of a transfer, including redirects.
        silence: Seconds without a byte after which a transfer is aborted.
        pause: Seconds before the second try; doubled for each further try.
        resolve: Resolves host names to IP addresses.
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
    """Allow all addresses, also private networks; for `DownloadOptions.reachable`."""
    return True


@dataclass
class Downloads:
    """The results for a catalogue's URLs.

    Attributes:
        cache: The cache that contains the files; None if there is no cache.
        urls: Number of distinct URLs.
        cached: Number of URLs downloaded by earlier runs.
        fetched: Number of URLs downloaded by this run.
        bytes: Bytes downloaded by this run and stored.
        failures: URL to the reason, in one line, for URLs that could not be downloaded.
        pending: Whether URLs that are not in the cache are still to be downloaded, as in a plan.
    """

    cache: MediaCache | None = None
    urls: int = 0
    cached: int = 0
    fetched: int = 0
    bytes: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    pending: bool = False

    def find(self, url: str) -> Path | str | None:
        """Return the file of a URL, the reason why there is none, or None if it is pending."""
        path = self.cache.find(url) if self.cache else None
        if path is not None:
            return path
        if url in self.failures:
            return f"not downloaded: {self.failures[url]}"
        return None if self.pending else "not downloaded"


def look_up(urls: Iterable[str], cache: MediaCache) -> Downloads:
    """Look up which URLs are in the cache; the others are pending if they are valid."""
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

    A failed download raises no error here. It is listed in the result's `failures`, and the next
    run tries it again. A run that is killed keeps all finished files.

    Args:
        urls: Each URL with the item field that contains it ("image", "video").
        cache: Where the files are stored.
        options: Limits; the defaults if None.
        progress: Called after each URL.

    Raises:
        CammsrError: If the cache cannot be written to.
    """
    cache.remove_left_behind()
    result = Downloads(cache, urls=len(urls))
    missing = {url: kind for url, kind in urls.items() if cache.find(url) is None}
    result.cached = len(urls) - len(missing)
    report = progress or (lambda _done, _total, _failed: None)
    report(result.cached, result.urls, 0)
    if missing:
        asyncio.run(_Run(options or DownloadOptions(), result, report).all_of(missing))
    return result


@dataclass
class _Host:
    """The URLs and the state of one host.

    Attributes:
        waiting: URLs that are still to be downloaded.
        not_before: Earliest time of the next request, on the event loop's clock.
        failures: Number of URLs in a row that failed because of this host.
        given_up: Why no further requests are sent to this host; None if they are.
    """

    name: str
    waiting: deque[str] = field(default_factory=deque)
    not_before: float = 0.0
    failures: int = 0
    given_up: str | None = None


class _Run:
    """One download run over many URLs, in one event loop."""

    def __init__(self, options: DownloadOptions, result: Downloads, progress: Progress) -> None:
        assert result.cache is not None
        self.options, self.result, self.progress = options, result, progress
        self.cache = result.cache
        self.kinds: Mapping[str, str] = {}
        # Contains each host once per simultaneous transfer that is allowed for it.
        self.turns: deque[_Host] = deque()

    async def all_of(self, urls: Mapping[str, str]) -> None:
        """Download each URL into the cache, or record why it failed."""
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
            network_backend=CheckedBackend(self.options.resolve, self.options.reachable),
        )
        try:
            # An error in one worker cancels the others before the pool is closed.
            async with pool, asyncio.TaskGroup() as workers:
                for _ in range(self.options.connections):
                    workers.create_task(self._worker(pool))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _worker(self, pool: httpcore2.AsyncConnectionPool) -> None:
        """Process the hosts in turn; a worker returns its turn after each URL."""
        while self.turns:
            host = self.turns.popleft()
            if not host.waiting:
                continue
            url = host.waiting.popleft()
            reason = await self._fetch(pool, url, host)
            if reason is None:
                self.result.fetched += 1
                self._report_progress()
            else:
                self._fail(url, reason)
            self.turns.append(host)

    def _fail(self, url: str, reason: str) -> None:
        self.result.failures[url] = reason
        self._report_progress()

    def _report_progress(self) -> None:
        result = self.result
        done = result.cached + result.fetched + len(result.failures)
        self.progress(done, result.urls, len(result.failures))

    async def _fetch(
        self, pool: httpcore2.AsyncConnectionPool, url: str, host: _Host
    ) -> str | None:
        """Request one URL until it succeeds (return None) or fails (return the reason)."""
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
            except RefusedError as refused:
                host.failures = 0
                return first_line(refused)
            except TimeoutError:
                # A second try would probably be as slow.
                reason = f"not done after {self.options.seconds:g} seconds"
                break
            except PassingError as passing:
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
        """Try to download one URL once, following redirects.

        Raises:
            RefusedError: The failure is permanent.
            PassingError: A later try may succeed.
        """
        at = url
        for _ in range(_REDIRECTS + 1):
            try:
                target = parse_url(at)
            except ValueError as refused:
                raise RefusedError(f"redirected to {at[:200]}: {refused}") from None
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
            with faults_named(target.host, self.options.silence):
                async with pool.stream(
                    "GET", to, headers=headers, extensions={"timeout": limits}
                ) as response:
                    location = header(response, b"location")
                    if response.status not in _REDIRECT_STATUS or location is None:
                        await self._receive(response, url)
                        return
            at = urljoin(str(target), location)
        raise RefusedError(f"more than {_REDIRECTS} redirects")

    async def _receive(self, response: httpcore2.Response, url: str) -> None:
        """Store the body of a response in the cache, if it is the expected kind of file."""
        require_usable(response, self.options.max_bytes)
        kind = self.kinds[url]
        with self.cache.download() as file:
            head, extension = b"", None
            async for chunk in response.aiter_stream():
                if file.bytes + len(head) + len(chunk) > self.options.max_bytes:
                    raise RefusedError(too_large(self.options.max_bytes))
                if extension is None:
                    head += chunk
                    if len(head) < HEAD_BYTES:
                        continue
                    extension = extension_of(kind, head[:HEAD_BYTES])
                    chunk, head = head, b""
                file.write(chunk)
            if extension is None:
                extension = extension_of(kind, head)
                file.write(head)
            file.keep(url, extension)
            self.result.bytes += file.bytes
