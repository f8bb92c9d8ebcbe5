from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cammsr_cli.encoding.rows import RowFile


@given(st.data())
def test_it_is_an_array_in_a_file(data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    expected = np.zeros((rows, dim), dtype)
    found = RowFile(Path("/tmp"), (rows, dim), dtype)
    for value in range(data.draw(st.integers(0, 10)) if rows else 0):
        some = np.array(data.draw(st.lists(st.integers(0, rows - 1), unique=True)), np.int64)
        vector = np.full(dim, value + 0.5, dtype)
        expected[some] = vector
        found[some] = vector
    assert (found.shape, found.dtype, len(found)) == (expected.shape, expected.dtype, rows)
    start, stop = data.draw(st.integers(0, 25)), data.draw(st.integers(0, 25))
    np.testing.assert_array_equal(found[start:stop], expected[start:stop])
    np.testing.assert_array_equal(found[:], expected)


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    array = RowFile(tmp_path, (10, 3), "float16")
    array[np.array([3])] = np.ones(3, np.float16)
    assert not list(tmp_path.iterdir())
