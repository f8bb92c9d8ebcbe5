"""What `prepare` computes in, where nobody says."""

from __future__ import annotations

import pytest

from cammsr_cli.commands.prepare import PrecisionName, _computing


@pytest.mark.parametrize(
    ("devices", "computing"),
    [
        ("cpu", ("float32", 32)),
        ("mps", ("float32", 32)),
        ("cuda", ("bfloat16", 256)),
        ("cuda:0,cuda:1", ("bfloat16", 256)),
    ],
)
def test_a_gpu_is_given_larger_batches_of_shorter_numbers(
    devices: str, computing: tuple[str, int]
) -> None:
    assert _computing(devices, PrecisionName.AUTO, None) == computing
    assert _computing(devices, PrecisionName.FLOAT32, 8) == ("float32", 8)
    assert _computing(devices, PrecisionName.BFLOAT16, None) == ("bfloat16", computing[1])
