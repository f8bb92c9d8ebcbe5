"""Memory that a decoding process and this one share: what is taken is what was put."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.encoding import shared_ring_buffer as ring_module
from cammsr_cli.encoding.decode import Decoder
from cammsr_cli.encoding.shared_ring_buffer import Ring

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="a kind of Linux's memory")


class Pair:
    """The two ends, as two processes have them."""

    def __init__(self) -> None:
        self.taker = Ring()
        self.putter = Ring(os.dup(self.taker.file))

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.taker.close()
        self.putter.close()


def test_large_parts_go_through_the_memory_and_the_rest_beside_it() -> None:
    value = {"pixels": np.arange(60_000, dtype=np.uint16).reshape(3, 100, 200), "name": "a"}
    with Pair() as pair:
        spilt = pair.putter.put(value)
        assert spilt is not None
        assert len(spilt.rest) < 500
        taken = pair.taker.take(spilt)
    np.testing.assert_array_equal(taken["pixels"], value["pixels"])
    assert taken["pixels"].flags.writeable  # its own, not the ring's
    assert taken["name"] == "a"


@pytest.mark.parametrize("value", ["text", [1, 2], np.zeros((4, 4))[:, ::2]])
def test_what_has_no_large_parts_goes_another_way(value: object) -> None:
    with Pair() as pair:
        assert pair.putter.put(value) is None


def test_where_it_is_full_values_go_another_way_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ring_module, "RING_BYTES", 1024)
    with Pair() as pair:
        first = pair.putter.put(np.full(600, 1, np.uint8))
        assert first is not None
        assert pair.putter.put(np.full(600, 2, np.uint8)) is None
        assert pair.putter.put(np.full(5000, 2, np.uint8)) is None
        assert pair.taker.take(first).tolist() == [1] * 600
        third = pair.putter.put(np.full(600, 3, np.uint8))
        assert third is not None
        assert pair.taker.take(third).tolist() == [3] * 600


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 700), min_size=1, max_size=3), max_size=40), st.data())
def test_any_sizes_taken_at_any_time_are_as_they_were_put(
    sizes: list[list[int]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patched, Pair() as pair:
        patched.setattr(ring_module, "RING_BYTES", 2048)
        waiting = []
        for number, each in enumerate(sizes):
            value = [np.full(size, number % 251, np.uint8) for size in each]
            spilt = pair.putter.put(value)
            if spilt is not None:
                waiting.append((spilt, value))
            for _ in range(data.draw(st.integers(0, len(waiting)))):
                spilt, value = waiting.pop(0)
                for one, other in zip(pair.taker.take(spilt), value, strict=True):
                    np.testing.assert_array_equal(one, other)


class _Pictures:
    """Decodes pictures of a size that a few of fill the memory."""

    fields = ("image",)

    def load(self, item: dict[str, str]) -> np.ndarray:
        return np.full((3, 1200, 1200), int(item["image"]) % 251, np.uint8)


def _where(file: Path) -> str:
    return str(file.readlink()) if file.is_symlink() else ""


@pytest.mark.parametrize("shared", [True, False])
def test_decoded_pictures_arrive_whole_with_and_without_it(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared:
        monkeypatch.delattr(os, "memfd_create")
    decoder = Decoder(_Pictures(), 2, 60)  # type: ignore[arg-type]
    decoder.give([{"image": str(at)} for at in range(24)])
    for at, picture in enumerate(decoder.take(24)):
        assert picture.shape == (3, 1200, 1200)
        assert (picture == at % 251).all()
    decoder.close()
    assert not [file for file in Path("/proc/self/fd").iterdir() if "memfd" in _where(file)]
