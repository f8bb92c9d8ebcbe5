"""The sequence encoder: causal, blind to padding, told of positions and of time."""

from __future__ import annotations

import pytest
import torch

from cammsr_cli.core.layers import DynamicTanh, TransformerBlock
from cammsr_cli.core.sequence import SequenceEncoder
from cammsr_cli.core.windows import Events, cut, pack

WIDTH, LENGTH = 16, 8


def _encoder(time: bool = True, norm="dyt", dropout: float = 0.0) -> SequenceEncoder:
    torch.manual_seed(0)
    encoder = SequenceEncoder(WIDTH, 2, 2, LENGTH, dropout, norm, time).eval()
    with torch.no_grad():  # large enough that what is added is plain to see
        encoder.position.weight.normal_()
        if encoder.gap is not None:
            encoder.gap.weight.normal_()
    return encoder


@pytest.mark.parametrize("norm", ["dyt", "layernorm"])
def test_a_later_event_never_changes_an_earlier_state(norm) -> None:
    encoder = _encoder(norm=norm)
    x, gap = torch.randn(2, LENGTH, WIDTH), torch.randint(0, 40, (2, LENGTH))
    before = encoder(x, gap)
    for at in range(1, LENGTH):
        other_x, other_gap = x.clone(), gap.clone()
        other_x[:, at:] = torch.randn_like(x[:, at:])
        other_gap[:, at:] = torch.randint(0, 40, gap[:, at:].shape)
        after = encoder(other_x, other_gap)
        torch.testing.assert_close(after[:, :at], before[:, :at], rtol=0, atol=0)
        assert (after[:, at] - before[:, at]).abs().max() > 1e-3


def test_a_history_alone_or_in_a_padded_batch_gives_the_same_state() -> None:
    encoder = _encoder()
    table = torch.randn(20, WIDTH)
    lengths = torch.tensor([1, 3, 8, 5])
    end = lengths.cumsum(0)
    start = end - lengths
    events = Events(torch.randint(0, 20, (17,)), torch.randint(0, 9999, (17,)).sort().values)
    window = cut(events, start, end)
    together = encoder(table[window.item_BL], window.gap_BL)
    for row in range(len(lengths)):
        own = cut(events, start[row : row + 1], end[row : row + 1])
        alone = encoder(table[own.item_BL], own.gap_BL)[0]
        torch.testing.assert_close(together[row, : lengths[row]], alone, rtol=1e-5, atol=1e-6)


def test_histories_in_one_row_do_not_see_each_other() -> None:
    encoder = _encoder()
    with torch.no_grad():
        for block in encoder.blocks:
            block.distance_bias_LA.normal_()
    table = torch.randn(20, WIDTH)
    end = torch.tensor([3, 5, 9, 18])
    start = torch.tensor([0, 3, 5, 9])
    events = Events(torch.randint(0, 20, (18,)), torch.randint(0, 9999, (18,)).sort().values)
    packed = pack(cut(events, start, end), LENGTH)
    rows = packed.window
    assert len(rows.item_BL) == 2
    together = encoder(table[rows.item_BL], rows.gap_BL, rows.within_BL)
    for one, (row, last) in enumerate(zip(packed.row_W, packed.last_W, strict=True)):
        own = cut(events, start[one : one + 1], end[one : one + 1] - 1)
        alone = encoder(table[own.item_BL], own.gap_BL)[0]
        found = together[row, last + 1 - len(alone) : last + 1]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_time_counts_if_asked_for_and_only_then() -> None:
    x = torch.randn(1, 4, WIDTH)
    gap, other = torch.tensor([[0, 3, 1, 5]]), torch.tensor([[0, 3, 9, 5]])
    timed, plain = _encoder(time=True), _encoder(time=False)
    difference = (timed(x, gap) - timed(x, other)).abs().amax(-1)[0]
    assert (difference[:2] == 0).all()
    assert (difference[2:] > 1e-4).all()
    assert torch.equal(plain(x, gap), plain(x, other))
    assert not any("gap" in name for name, _ in plain.named_parameters())


def test_positions_count() -> None:
    x = torch.randn(1, 1, WIDTH).expand(1, 4, WIDTH)
    states = _encoder()(x, torch.zeros(1, 4, dtype=torch.long))[0]
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_without_blocks_it_is_scaled_input_plus_position_plus_gap_normed() -> None:
    encoder = SequenceEncoder(WIDTH, 0, 2, LENGTH, 0.0, "dyt", True).eval()
    assert encoder.gap is not None
    assert isinstance(encoder.final_norm, DynamicTanh)
    x, gap = torch.randn(1, 3, WIDTH), torch.tensor([[0, 7, 39]])
    summed = x * WIDTH**0.5 + encoder.position.weight[:3] + encoder.gap.weight[gap]
    torch.testing.assert_close(encoder(x, gap), torch.tanh(0.5 * summed))


def test_every_parameter_gets_a_gradient() -> None:
    encoder = _encoder().train()
    encoder(
        torch.randn(2, LENGTH, WIDTH), torch.randint(0, 40, (2, LENGTH))
    ).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_works_in_training_only() -> None:
    encoder = _encoder(dropout=0.5)
    x, gap = torch.randn(1, 4, WIDTH), torch.zeros(1, 4, dtype=torch.long)
    assert torch.equal(encoder(x, gap), encoder(x, gap))
    encoder.train()
    assert not torch.equal(encoder(x, gap), encoder(x, gap))


@pytest.mark.parametrize("norm", ["dyt", "layernorm"])
def test_the_last_state_alone_is_that_among_all(norm) -> None:
    encoder = _encoder(norm=norm)
    with torch.no_grad():
        for block in encoder.blocks:
            assert isinstance(block, TransformerBlock)
            assert block.distance_bias_LA is not None
            block.distance_bias_LA.normal_()
    x, gap = torch.randn(4, LENGTH, WIDTH), torch.randint(0, 40, (4, LENGTH))
    last = torch.tensor([LENGTH - 1, 0, 3, 5])
    expected = encoder(x, gap)[torch.arange(4), last]
    torch.testing.assert_close(encoder.last(x, gap, last), expected)
