"""Images and videos that an items file names by URL: their list, and the result of the download.

`media.download` does the downloading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cammsr_encoders.protocol import MEDIA_FIELDS, Encoder

from cammsr_cli.data.readers.tables import counted
from cammsr_cli.encoding.features import ProgressBar
from cammsr_cli.media.addresses import is_web_address, parse_url
from cammsr_cli.media.cache import MediaCache
from cammsr_cli.media.download import DownloadOptions, Downloads, download, look_up

_HOSTS_LISTED = 5


@dataclass(frozen=True)
class DownloadReport:
    """The result, or in a dry run the expected result, for media with a URL.

    Attributes:
        urls: Number of distinct URLs.
        hosts: Number of distinct hosts.
        cached: Number of URLs downloaded by earlier runs.
        fetched: Number of URLs that this run downloads.
        failed: Number of URLs that could not be downloaded.
        bytes: Bytes that this run downloaded.
    """

    urls: int
    hosts: int
    cached: int
    fetched: int
    failed: int
    bytes: int


@dataclass(frozen=True)
class WebMedia:
    """The media of a catalogue that have a URL.

    Attributes:
        urls: Each URL, with the item field that contains it.
    """

    urls: Mapping[str, str]

    @classmethod
    def of(
        cls, fields: Mapping[str, Sequence[str | None]], encoders: Sequence[Encoder]
    ) -> WebMedia:
        """Collect the URLs among the media that the encoders read."""
        names = dict.fromkeys(one for encoder in encoders for one in encoder.fields)
        return cls(
            {
                value.strip(): name
                for name in names
                if name in MEDIA_FIELDS
                for value in fields.get(name, ())
                if value and is_web_address(value)
            }
        )

    def looked_up(self, options: DownloadOptions | None, cache_dir: Path | None) -> Downloads:
        """Look the URLs up in the cache; the others are pending, if `options` is given."""
        if cache_dir is None:
            return Downloads(urls=len(self.urls))
        found = look_up(self.urls, MediaCache(cache_dir))
        return replace(found, pending=options is not None)

    def fetched(
        self, options: DownloadOptions | None, cache_dir: Path | None, progress_bar: ProgressBar
    ) -> Downloads:
        """Look the URLs up in the cache, and download the others, if `options` is given."""
        if not self.urls or options is None or cache_dir is None:
            return replace(self.looked_up(options, cache_dir), pending=False)
        with progress_bar("downloads") as progress:
            return download(self.urls, MediaCache(cache_dir), options, progress)

    def report(self, downloads: Downloads) -> DownloadReport | None:
        """Create the report; None if there are no URLs."""
        if not self.urls:
            return None
        missing = downloads.urls - downloads.cached
        fetched = missing - len(downloads.failures) if downloads.pending else downloads.fetched
        return DownloadReport(
            urls=downloads.urls,
            hosts=len(self._hosts()),
            cached=downloads.cached,
            fetched=fetched,
            failed=missing - fetched,
            bytes=downloads.bytes,
        )

    def notes(self, downloads: Downloads, options: DownloadOptions | None) -> list[str]:
        """Return a note about requests and hosts; empty if there are no URLs."""
        report = self.report(downloads)
        if report is None:
            return []
        hosts = self._hosts()
        hosts_listed = [f"{count:,} on {host}" for host, count in hosts.most_common(_HOSTS_LISTED)]
        if len(hosts) > _HOSTS_LISTED:
            hosts_listed.append(f"others on {counted(len(hosts) - _HOSTS_LISTED, 'more host')}")
        if options is None:
            outcome = f"{report.failed:,} not there and not downloaded (--no-download)"
        else:
            outcome = f"{report.fetched:,} to download"
            if not downloads.pending:
                outcome = f"{report.fetched:,} downloaded ({report.bytes / 1e6:,.1f} MB)"
            outcome += f", {report.failed:,} failed" if report.failed else ""
        where = f" ({', '.join(hosts_listed)})" if hosts_listed else ""
        urls = counted(report.urls, "media URL")
        return [f"{urls}{where}: {report.cached:,} in the cache, {outcome}"]

    def _hosts(self) -> Counter[str]:
        """Count the URLs per host; invalid URLs are not counted."""
        hosts: Counter[str] = Counter()
        for url in self.urls:
            with suppress(ValueError):
                hosts[parse_url(url).host] += 1
        return hosts
