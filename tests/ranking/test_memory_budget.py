"""Parts become smaller where memory gives out, and give the same."""

from __future__ import annotations

import pytest
import torch

from cammsr_cli.errors import CammsrError
from cammsr_cli.ranking.memory_budget import in_parts

NO_ROOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _parts(number: int, at_once: int, room: int) -> tuple[list[range], list[int]]:
    asked = []

    def part(first: int, past: int) -> range:
        asked.append(past - first)
        if past - first > room:
            raise NO_ROOM
        return range(first, past)

    return in_parts(number, lambda _: at_once, part), asked


def test_parts_are_halved_until_they_fit_and_stay_so() -> None:
    made, asked = _parts(20, 12, room=3)
    assert [row for part in made for row in part] == list(range(20))
    assert asked == [12, 6, 3, 3, 3, 3, 3, 3, 2]


def test_with_room_they_are_as_large_as_they_may_be() -> None:
    made, asked = _parts(20, 12, room=12)
    assert made == [range(12), range(12, 20)]
    assert asked == [12, 8]
    assert _parts(0, 12, room=12) == ([], [])
    assert _parts(2, 0, room=1)[1] == [1, 1]


def test_a_row_that_does_not_fit_is_an_error_with_a_way_out() -> None:
    with pytest.raises(CammsrError, match="does not hold") as caught:
        _parts(20, 12, room=0)
    assert "--device cpu" in (caught.value.hint or "")


def test_other_errors_are_passed_on() -> None:
    def part(first: int, past: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_parts(3, lambda _: 3, part)
