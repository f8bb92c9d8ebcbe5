"""What a CPU is given in another form has the values of the plain one, run on a pretended GPU."""

from __future__ import annotations

import pytest
import torch
from pretended_cuda import OnCuda, pretended_cuda

from cammsr_cli.model.device_kernels import attention, dropout, filled, rows_at_once, segment_mask

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def _plainly(function, *given) -> torch.Tensor:
    """What is made of the same values on the GPU."""
    with pretended_cuda():
        made = function(*(x.to(GPU) if isinstance(x, torch.Tensor) else x for x in given))
        assert isinstance(made, OnCuda)
        return made.inner


def test_segments_are_kept_apart_alike() -> None:
    within = torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 1, 2]])
    ours, theirs = segment_mask(within), _plainly(segment_mask, within)
    past = torch.ones(7, 7).tril().bool()
    for mask in (ours, theirs):
        assert mask.dtype == torch.float32
        assert ((mask == 0) | (mask <= -1e30)).all()
    assert torch.equal((ours == 0)[:, past], (theirs == 0)[:, past])
    seen = (theirs == 0) & past
    assert seen[0, 4].nonzero().squeeze(1).tolist() == [3, 4]


@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_attention_is_the_same(share: float) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 2, 6, 8)
    bias = torch.randn(2, 1, 2, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    ours = attention(q, k, v, bias, share)
    if share:  # of which the CPU makes one in 256
        ours = torch.stack([attention(q, k, v, bias, share) for _ in range(1000)]).mean(0)
    theirs = _plainly(attention, q, k, v, bias, 0.0)
    torch.testing.assert_close(ours, theirs, atol=0.02 if share else 1e-6, rtol=1e-4)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_dropout_has_one_law(share: float) -> None:
    """As many values dropped, the others scaled alike."""
    torch.manual_seed(0)
    x = torch.ones(200_000)
    for out in (dropout(x, share), _plainly(dropout, x, share)):
        assert sorted(set(out.tolist())) == [0.0, pytest.approx(1 / (1 - share))]
        assert (out == 0).float().mean().item() == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize("of", [1, 15, 64, 2816, 10_000])
def test_rows_are_made_even_on_a_cpu_alone(of: int) -> None:
    even, plain = (rows_at_once(of, 3000, device) for device in (CPU, GPU))
    assert plain == min(of, 2**26 // 3000)
    assert even * 3000 <= 2**21
    assert even % 16 == 0 or of < 16
    x = torch.randn(of % even or 1, 3)
    assert len(filled(x, even)) == even
    assert torch.equal(filled(x, even)[: len(x)], x)
    assert not filled(x, even)[len(x) :].any()
    assert torch.equal(_plainly(lambda y: filled(y, even) * 1, x), x)
