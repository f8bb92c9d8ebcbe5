from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cammsr_cli.data import texts
from cammsr_cli.data.texts import Texts

LISTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])))


@given(LISTS, LISTS, st.integers(1, 4), st.slices(10))
def test_they_are_as_a_list(values: list, other: list, piece: int, some: slice) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_PIECE", piece)
        found = Texts(iter(values))
    assert found == values
    assert list(found) == values
    assert (found == other) == (values == other)
    assert [found[row] for row in range(len(values))] == values
    assert found[some] == values[some]


def test_beyond_the_end_there_is_nothing() -> None:
    with pytest.raises(IndexError):
        Texts(["a"])[1]
    assert Texts([])[:5] == []
