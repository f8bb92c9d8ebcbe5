from __future__ import annotations

import pytest

from cammsr_cli.media.addresses import is_public, is_web_address, parse_url


@pytest.mark.parametrize(
    ("written", "sound"),
    [
        ("http://a.example/x.jpg", "http://a.example/x.jpg"),
        (" HTTPS://A.Example ", "https://a.example/"),
        ("http://a.example:80/x?b=c&d=%20#part", "http://a.example/x?b=c&d=%20"),
        ("https://a.example:8443/x y/é.jpg", "https://a.example:8443/x%20y/%C3%A9.jpg"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
        ("http://a.example?x", "http://a.example/?x"),
        ("http://a.example/../../etc/passwd", "http://a.example/../../etc/passwd"),
    ],
)
def test_sound_addresses(written: str, sound: str) -> None:
    assert is_web_address(written)
    assert str(parse_url(written)) == sound


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("http://user:secret@a.example/x", "user name or password"),
        ("http://user@a.example/x", "user name or password"),
        ("http://a.example\\@b.example/x", "user name or password"),
        ("http:///x.jpg", "no host"),
        ("http://", "no host"),
        ("http:x.jpg", "no host"),
        ("http://a.example:99999/", "cannot be read"),
        ("http://a.example:port/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
        ("http://a b.example/", "host cannot be read"),
        ("http://a.example\r\nX: y/", "control characters"),
        ("http://" + "a" * 9000, "9,007 characters"),
        ("http://" + "a" * 70 + ".example/", "host cannot be read"),
        ("ftp://a.example/x", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
    ],
)
def test_other_addresses_are_refused_with_a_reason(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as told:
        parse_url(written)
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("written", ["x.jpg", "https.jpg", "http/x.jpg", "data:x", "file:///x", ""])
def test_other_media_are_no_web_addresses(written: str) -> None:
    assert not is_web_address(written)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.2.1", "198.18.0.1"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1"),
        *("::ffff:8.8.8.8", "::ffff:127.0.0.1", "::ffff:7f00:1", "::7f00:1", "::8.8.8.8"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("2002:7f00:1::", "2002:808:808::", "2001:0:4136:e378::1", "2001:db8::1", "100::1"),
        *("localhost", "", "8.8.8"),
    ],
)
def test_all_other_addresses_are_not(address: str) -> None:
    assert not is_public(address)
