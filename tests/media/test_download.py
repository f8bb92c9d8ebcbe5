"""Downloads from a real server that answers as servers do: mostly badly."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import hashlib
import io
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpcore2
import numpy as np
import pytest
from PIL import Image
from web_server import WebServer, breaks_off, drips, in_turn, sends, stalls, status, web_server

from cammsr_cli.errors import CammsrError
from cammsr_cli.media.cache import MediaCache
from cammsr_cli.media.download import DownloadOptions, Downloads, any_address, download, look_up


def _jpeg(seed: int = 0, side: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


JPEG = _jpeg()
PAGE = b"<!DOCTYPE html><html><body>Please accept our cookies</body></html>" * 20


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> MediaCache:
    return MediaCache(tmp_path)


def _options(**changed: object) -> DownloadOptions:
    quick: dict[str, object] = {
        "reachable": any_address, "tries": 2, "pause": 0.01, "silence": 0.3, "seconds": 5.0,
    }  # fmt: skip
    return DownloadOptions(**{**quick, **changed})  # type: ignore[arg-type]


def _one(
    server: WebServer, cache: MediaCache, path: str = "/x.jpg", **changed: object
) -> Path | str:
    """Download one picture: its file, or why not; nothing half-written is left."""
    url = path if "://" in path else server.url(path)
    result = download({url: "image"}, cache, _options(**changed))
    assert list((cache.folder / "partial").glob("*")) == []
    found = result.find(url)
    assert found is not None
    assert isinstance(found, Path) == (result.fetched + result.cached == 1)
    assert isinstance(found, str) == (list(result.failures) == [url])
    return found


def test_a_picture_is_kept_by_its_content_and_not_asked_for_again(
    server: WebServer, cache: MediaCache
) -> None:
    for path in ("/a.jpg", "/b.jpg?size=large"):
        server.answers[path] = sends(JPEG, Content_Type="image/jpeg")
    urls = {server.url(path): "image" for path in server.answers}
    told: list[tuple[int, int, int]] = []
    result = download(urls, cache, _options(), lambda *numbers: told.append(numbers))
    assert (result.urls, result.fetched, result.cached, result.failures) == (2, 2, 0, {})
    assert result.bytes == 2 * len(JPEG)
    assert told == [(0, 2, 0), (1, 2, 0), (2, 2, 0)]
    (path,) = {result.find(url) for url in urls}  # one content, one file
    assert isinstance(path, Path)
    assert path.read_bytes() == JPEG
    assert path.name == f"{hashlib.sha256(JPEG).hexdigest()}.jpg"
    again = download(urls, cache, _options())
    assert (again.fetched, again.cached, again.bytes) == (0, 2, 0)
    assert set(server.asked.values()) == {1}
    assert server.headers["Accept-Encoding"] == "identity"


def test_a_look_says_what_is_there_and_asks_nobody(server: WebServer, cache: MediaCache) -> None:
    server.answers["/a.jpg"] = sends(JPEG)
    urls = [server.url("/a.jpg"), server.url("/b.jpg"), "http://user@host/x.jpg"]
    download({urls[0]: "image"}, cache, _options())
    server.asked.clear()
    found = look_up(urls, cache)
    assert (found.urls, found.cached, found.pending) == (3, 1, True)
    assert isinstance(found.find(urls[0]), Path)
    assert found.find(urls[1]) is None
    assert "user name" in str(found.find(urls[2]))
    assert not server.asked


def test_what_failed_is_tried_again_by_the_next_run(server: WebServer, cache: MediaCache) -> None:
    assert _one(server, cache) == "not downloaded: HTTP 404 Not Found"
    assert server.asked["/x.jpg"] == 1  # asking again would not help
    server.answers["/x.jpg"] = sends(JPEG)
    assert isinstance(_one(server, cache), Path)


@pytest.mark.parametrize("damage", ["content gone", "content cut", "record cut", "record odd"])
def test_what_is_no_longer_whole_is_downloaded_again(
    server: WebServer, cache: MediaCache, damage: str
) -> None:
    server.answers["/x.jpg"] = sends(JPEG)
    path = _one(server, cache)
    assert isinstance(path, Path)
    (record,) = cache.folder.rglob("*.json")
    if damage == "content gone":
        path.unlink()
    elif damage == "content cut":
        path.write_bytes(JPEG[:-5])
    else:
        record.write_text("{" if damage == "record cut" else '{"file": "../../x", "bytes": 1}')
    again = _one(server, cache)
    assert isinstance(again, Path)
    assert again.read_bytes() == JPEG
    assert server.asked["/x.jpg"] == 2


def test_half_written_files_of_killed_runs_are_removed_once_they_are_old(
    server: WebServer, cache: MediaCache
) -> None:
    (cache.folder / "partial").mkdir(parents=True)
    old, new = cache.folder / "partial" / "old", cache.folder / "partial" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 100_000,) * 2)
    download({}, cache)
    assert not old.exists()
    assert new.exists()  # perhaps of a run that is at work just now


# --- servers that misbehave ---------------------------------------------------------------------

BOMB = gzip.compress(b"\0" * 10_000_000)
REFUSED: dict[str, tuple[Callable[..., None], str]] = {
    "a page": (sends(PAGE, Content_Type="text/html; charset=utf-8"), "a web page (text/html)"),
    "a page called a picture": (sends(PAGE, Content_Type="image/jpeg"), "a web page (HTML), not"),
    "an SVG": (sends(b'<?xml version="1.0"?><svg xmlns="x"/>'), "an SVG drawing, not a picture"),
    "JSON": (sends(b'{"error": "gone"}'), "JSON, not a picture"),
    "a clip": (sends(b"\0\0\0\x20ftypisom" + bytes(600)), "a clip, not a picture"),
    "noise": (sends(b"\x07\x08" * 999), "not a picture of a known format"),
    "nothing": (sends(b""), "an empty file"),
    "no content": (status(204), "HTTP 204 No Content"),
    "part of it": (status(206), "HTTP 206 Partial Content"),
    "gone": (status(410), "HTTP 410 Gone"),
    "forbidden": (status(403), "HTTP 403 Forbidden"),
    "a gzip bomb": (sends(BOMB, Content_Encoding="gzip"), "sent compressed (gzip)"),
    "a gzip bomb untold": (sends(BOMB), "a compressed file, not a picture"),
    "said to be large": (sends(JPEG, Content_Length=10**12), "larger than 0.1 MB"),
    "without end": (drips(JPEG, b"x" * 10_000, every=0), "larger than 0.1 MB"),
    "a redirect to itself": (status(302, Location="/x.jpg"), "more than 5 redirects"),
    "a redirect to a file": (status(302, Location="file:///etc/passwd"), "only http and https"),
    "a redirect with a password": (status(302, Location="http://a:b@c/"), "user name or password"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_answer_that_is_no_picture_is_refused_at_once(
    server: WebServer, cache: MediaCache, kind: str
) -> None:
    server.answers["/x.jpg"], reason = REFUSED[kind]
    told = _one(server, cache, max_bytes=100_000)
    assert isinstance(told, str)
    assert reason in told
    assert told.startswith("not downloaded: ")
    assert "\n" not in told
    assert server.asked["/x.jpg"] == (6 if kind == "a redirect to itself" else 1)
    assert not (cache.folder / "content").exists()


def _resets(handler) -> None:
    """Half a picture, then a TCP reset."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(JPEG)))
    handler.end_headers()
    handler.wfile.write(JPEG[:600])
    time.sleep(0.05)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _vanishes(handler)


def _vanishes(handler) -> None:
    """The connection is closed now, and not when the handler's files are."""
    os.close(handler.connection.detach())


def _bad_chunks(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx")
    handler.close_connection = True


PASSING: dict[str, tuple[Callable[..., None], str]] = {
    "half": (breaks_off(JPEG, 700), "the connection broke off"),
    "length too long": (sends(JPEG, Content_Length=len(JPEG) + 9, Connection="close"), "broke off"),
    "reset": (_resets, "the connection broke off"),
    "stalls": (stalls, "no byte for 0.3 seconds"),
    "unavailable": (status(503), "HTTP 503 Service Unavailable"),
    "too often": (status(429, Retry_After=0), "HTTP 429 Too Many Requests"),
    "no HTTP": (lambda handler: handler.wfile.write(b"\0\1\2\n\n"), "broke off"),
    "bad chunks": (_bad_chunks, "broke off"),
    "gone at once": (_vanishes, "broke off"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again_and_then_told(
    server: WebServer, cache: MediaCache, kind: str
) -> None:
    fault, reason = PASSING[kind]
    if kind == "length too long":  # the handler must close, or the client rightly waits
        keeping = fault

        def fault(handler) -> None:
            keeping(handler)
            handler.close_connection = True

    server.answers["/x.jpg"] = fault
    told = _one(server, cache)
    assert reason in str(told)
    assert server.asked["/x.jpg"] == 2
    server.answers["/x.jpg"] = in_turn(fault, sends(JPEG))
    path = _one(server, cache)
    assert isinstance(path, Path), path
    assert path.read_bytes() == JPEG
    assert server.asked["/x.jpg"] == 4


def test_a_length_too_short_cuts_the_picture_and_no_more(
    server: WebServer, cache: MediaCache
) -> None:
    # Nothing in HTTP tells that bytes are missing: the decoder will.
    server.answers["/x.jpg"] = sends(JPEG, Content_Length=700, Connection="close")
    path = _one(server, cache)
    assert isinstance(path, Path)
    assert path.read_bytes() == JPEG[:700]


@pytest.mark.parametrize("part", ["body", "headers"])
def test_a_server_that_drips_is_cut_off_by_the_time_in_all(
    server: WebServer, cache: MediaCache, part: str
) -> None:
    def headers(handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not server.ending.wait(0.05):
            handler.wfile.write(b"x")

    server.answers["/x.jpg"] = drips(JPEG) if part == "body" else headers
    began = time.monotonic()
    told = _one(server, cache, seconds=0.5)
    assert told == "not downloaded: not done after 0.5 seconds"
    assert time.monotonic() - began < 3
    assert server.asked["/x.jpg"] == 1


def test_a_pause_that_is_asked_for_is_kept_by_all_downloads_of_the_host(
    server: WebServer, cache: MediaCache
) -> None:
    begun: list[float] = []

    def timed(handler) -> None:
        begun.append(time.monotonic())
        (status(429, Retry_After=1) if len(begun) == 1 else sends(JPEG))(handler)

    urls = {}
    for number in range(4):
        server.answers[f"/{number}.jpg"] = timed
        urls[server.url(f"/{number}.jpg")] = "image"
    result = download(urls, cache, _options(per_host=1))
    assert result.fetched == 4
    assert begun[1] - begun[0] >= 0.95


def test_a_date_to_wait_for_and_a_host_that_asks_for_too_much(
    server: WebServer, cache: MediaCache
) -> None:
    soon = email.utils.formatdate(time.time() - 5, usegmt=True)
    server.answers["/x.jpg"] = in_turn(status(503, Retry_After=soon), sends(JPEG))
    assert isinstance(_one(server, cache), Path)
    server.answers["/y.jpg"] = status(429, Retry_After=3600)
    server.answers["/z.jpg"] = sends(JPEG)
    urls = {server.url(path): "image" for path in ("/y.jpg", "/z.jpg")}
    result = download(urls, cache, _options(per_host=1))
    assert "asks to wait 3,600 seconds" in result.failures[server.url("/y.jpg")]
    assert "127.0.0.1 was given up on: HTTP 429" in result.failures[server.url("/z.jpg")]
    assert server.asked["/z.jpg"] == 0


def test_a_host_gets_no_more_connections_than_its_share_and_none_waits_for_another(
    server: WebServer, cache: MediaCache
) -> None:
    def slow(handler) -> None:
        time.sleep(0.05)
        sends(JPEG)(handler)

    with web_server("127.0.0.2") as dead:
        urls = {}
        for number in range(12):
            dead.answers[f"/{number}.jpg"] = stalls
            urls[dead.url(f"/{number}.jpg", "127.0.0.2")] = "image"
            server.answers[f"/{number}.jpg"] = slow
            urls[server.url(f"/{number}.jpg")] = "image"
        done: list[float] = []
        began = time.monotonic()

        def progress(finished: int, total: int, failed: int) -> None:
            if finished - failed == 12:
                done.append(time.monotonic() - began)

        result = download(urls, cache, _options(per_host=3, tries=1, silence=0.8), progress)
        assert (result.fetched, len(result.failures)) == (12, 12)
        assert server.most <= 3
        assert done[0] < 0.8  # the first stall was not over yet


def test_a_host_that_only_fails_is_given_up_on(server: WebServer, cache: MediaCache) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        urls = {f"http://127.0.0.1:{port}/{number}.jpg": "image" for number in range(60)}
        result = download(urls, cache, _options(tries=1))
    reasons = list(result.failures.values())
    assert len(reasons) == 60
    assert reasons[0].startswith("127.0.0.1 cannot be connected to")
    given_up = [reason for reason in reasons if "given up on after 20 failures in a row" in reason]
    assert len(given_up) >= 36  # but for the first 20 and those under way


# --- addresses ----------------------------------------------------------------------------------


def _resolver(**addresses: str) -> Callable[[str, int], object]:
    async def resolve(host: str, _port: int) -> list[str]:
        if host not in addresses:
            raise OSError("no such host")
        return addresses[host].split()

    return resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433"])
def test_loopback_is_refused_however_it_is_written(
    server: WebServer, cache: MediaCache, host: str
) -> None:
    server.answers["/x.jpg"] = sends(JPEG)
    default = DownloadOptions().reachable
    told = _one(server, cache, server.url("/x.jpg", host), reachable=default)
    assert "private address" in str(told)
    assert "--allow-private-hosts" in str(told)
    assert not server.asked


def test_a_redirect_to_a_private_address_is_refused_at_the_connection(
    server: WebServer, cache: MediaCache
) -> None:
    # 127.0.0.1 stands for the public internet here, all else for the network within.
    with web_server("127.0.0.2") as inner:
        inner.answers["/secret.jpg"] = sends(JPEG)
        for host in ("127.0.0.2", "inner.test"):
            server.answers["/x.jpg"] = status(302, Location=inner.url("/secret.jpg", host))
            told = _one(
                server, cache,
                reachable=lambda address: address == "127.0.0.1",
                resolve=_resolver(**{"127.0.0.1": "127.0.0.1", "127.0.0.2": "127.0.0.2",
                                     "inner.test": "127.0.0.2"}),
            )  # fmt: skip
            assert f"{host} is at the private address 127.0.0.2" in str(told)
        assert server.asked["/x.jpg"] == 2
        assert not inner.asked
        # The same redirect is followed where that address is allowed.
        resolve = _resolver(**{"127.0.0.1": "127.0.0.1", "inner.test": "127.0.0.2"})
        assert isinstance(_one(server, cache, resolve=resolve), Path)
        assert inner.asked["/secret.jpg"] == 1


def test_a_redirect_within_the_host_is_followed(server: WebServer, cache: MediaCache) -> None:
    server.answers["/x.jpg"] = status(
        301, Location="../media/é y.jpg?v=1".encode().decode("latin1")
    )
    server.answers["/media/%C3%A9%20y.jpg?v=1"] = sends(JPEG)
    assert isinstance(_one(server, cache), Path)


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    server: WebServer, cache: MediaCache
) -> None:
    server.answers["/x.jpg"] = sends(JPEG)
    told = _one(
        server, cache, server.url("/x.jpg", "shop.test"),
        reachable=lambda address: address == "127.0.0.1",
        resolve=_resolver(**{"shop.test": "127.0.0.1 10.0.0.1"}),
    )  # fmt: skip
    assert "shop.test is at the private address 10.0.0.1" in str(told)
    assert not server.asked


def test_the_connection_goes_to_the_address_that_was_checked(
    server: WebServer, cache: MediaCache
) -> None:
    """A name that changes its address after it was checked (DNS rebinding) leads nowhere else."""
    server.answers["/x.jpg"] = sends(JPEG)
    with web_server("127.0.0.2") as inner:
        answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> list[str]:
            asked.append(next(answers))
            return [asked[-1]]

        url = server.url("/x.jpg", "shop.test")
        path = _one(
            server, cache, url,
            reachable=lambda address: address == "127.0.0.1", resolve=rebinding,
        )  # fmt: skip
        assert isinstance(path, Path)
        assert asked == ["127.0.0.1"]  # once: no second look whose answer goes unchecked
        assert server.headers["Host"] == f"shop.test:{server.port}"
        assert not inner.asked


def test_the_next_address_is_tried_and_an_unknown_host_is_told(
    server: WebServer, cache: MediaCache
) -> None:
    server.answers["/x.jpg"] = sends(JPEG)
    resolve = _resolver(**{"shop.test": "127.0.0.9 127.0.0.1"})
    assert isinstance(_one(server, cache, server.url("/x.jpg", "shop.test"), resolve=resolve), Path)
    told = _one(server, cache, server.url("/x.jpg", "other.test"), resolve=resolve)
    assert "other.test cannot be connected to: no such host" in str(told)


def test_proxies_of_the_environment_are_not_used(
    server: WebServer, cache: MediaCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/x.jpg"] = sends(JPEG)
    with web_server("127.0.0.2") as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("", "127.0.0.2"))
        assert isinstance(_one(server, cache), Path)
        assert not proxy.asked


def test_a_certificate_must_be_trusted(
    server: WebServer, cache: MediaCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=shop.test"
    )
    arguments = [*made.split(), "-addext", "subjectAltName=DNS:shop.test"]
    subprocess.run(
        ["openssl", *arguments, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.answers["/x.jpg"] = sends(JPEG)
    resolve = _resolver(**{"shop.test": "127.0.0.1", "other.test": "127.0.0.1"})

    def answer(host: str) -> Path | str:
        url = server.url("/x.jpg", host).replace("http:", "https:")
        return _one(server, cache, url, resolve=resolve)

    assert answer("shop.test") == "not downloaded: the certificate of shop.test is not trusted"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert "the certificate of other.test is not trusted" in str(answer("other.test"))
    assert isinstance(answer("shop.test"), Path)


def test_a_cache_that_cannot_be_written_to_ends_the_run(server: WebServer, tmp_path: Path) -> None:
    server.answers["/x.jpg"] = sends(JPEG)
    (tmp_path / "media").write_text("a file where the folder belongs")
    with pytest.raises(CammsrError, match=r"media cache .* cannot be written to") as told:
        download({server.url("/x.jpg"): "image"}, MediaCache(tmp_path), _options())
    assert "CAMMSR_CACHE_DIR" in (told.value.hint or "")


def test_one_transfers_end_ends_the_others_before_their_connections_are_closed(
    server: WebServer, cache: MediaCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Pool(httpcore2.AsyncConnectionPool):
        async def aclose(self) -> None:
            order.append("connections closed")
            await super().aclose()

    async def resolve(host: str, _port: int) -> list[str]:
        try:
            if host == "slow.test":
                await asyncio.sleep(60)
        finally:
            order.append(host)
        return ["127.0.0.1"]

    def full(_self: object, _chunk: bytes) -> None:
        raise CammsrError("no space left")

    monkeypatch.setattr(httpcore2, "AsyncConnectionPool", Pool)
    monkeypatch.setattr("cammsr_cli.media.cache.Download.write", full)
    server.answers["/x.jpg"] = sends(JPEG)
    urls = {server.url("/x.jpg", host): "image" for host in ("slow.test", "shop.test")}
    with pytest.raises(CammsrError, match="no space left"):
        download(urls, cache, _options(resolve=resolve))
    assert order == ["shop.test", "slow.test", "connections closed"]


def test_without_a_cache_nothing_is_found() -> None:
    assert Downloads().find("http://a/x.jpg") == "not downloaded"
