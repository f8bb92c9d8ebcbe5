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
"""Called with URLs done (those that failed, too), URLs in all, and failed ones."""


_REDIRECTS = 5
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
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
    report = progress or (lambda _done, _total, _failed: None)
    report(result.cached, result.urls, 0)
    if missing:
        asyncio.run(_Run(options or DownloadOptions(), result, report).all_of(missing))
    return result


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
            network_backend=CheckedBackend(self.options.resolve, self.options.reachable),
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
            except RefusedError as refused:
                host.failures = 0
                return first_line(refused)
            except TimeoutError:
                # As slow a second time, most likely; the time was given.
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
        """One try at one URL, redirects followed.

        Raises:
            RefusedError: It will not be had.
            PassingError: It may be had another time.
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
        """Put an answer's body into the cache, if it is what was asked for."""
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
