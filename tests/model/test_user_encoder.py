"""The user encoder: causal, blind to padding and to other histories; each stream for itself."""

from __future__ import annotations

import pytest
import torch

from cammsr_cli.model.device_kernels import segment_mask
from cammsr_cli.model.history_windows import Events, cut, pack
from cammsr_cli.model.user_encoder import UserEncoder, causal_mask

S, WIDTH, LENGTH = 2, 16, 8


def _encoder(relative_positions: bool = True, dropout: float = 0.0, layers: int = 2) -> UserEncoder:
    """With random values, large enough for all to be plain to see."""
    torch.manual_seed(0)
    encoder = UserEncoder(
        [False, True], WIDTH, layers, 2, LENGTH, dropout, relative_positions
    ).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@pytest.mark.parametrize("relative_positions", [True, False])
def test_a_later_event_never_changes_an_earlier_state(relative_positions) -> None:
    encoder, x = _encoder(relative_positions), torch.randn(S, 2, LENGTH, WIDTH)
    before = encoder(x)
    for at in range(1, LENGTH):
        other = x.clone()
        other[:, :, at:] = torch.randn_like(x[:, :, at:])
        after = encoder(other)
        torch.testing.assert_close(after[:, :, :at], before[:, :, :at], rtol=0, atol=0)
        assert (after[:, :, at] - before[:, :, at]).abs().max() > 1e-3


@pytest.mark.parametrize("changed", range(S))
def test_a_stream_never_changes_another_s_states(changed) -> None:
    encoder, x = _encoder(), torch.randn(S, 2, LENGTH, WIDTH)
    other = x.clone()
    other[changed] += torch.randn_like(x[changed])
    differs = (encoder(other) - encoder(x)).abs().amax((1, 2, 3))
    assert differs[changed] > 1e-3
    assert differs[1 - changed] == 0


def test_a_history_alone_or_in_a_padded_batch_gives_the_same_state() -> None:
    encoder = _encoder()
    table = torch.randn(S, 20, WIDTH)
    lengths = torch.tensor([1, 3, 8, 5])
    end = lengths.cumsum(0)
    start = end - lengths
    events = Events(torch.randint(0, 20, (17,)), torch.arange(17))
    together = encoder(table[:, cut(events, start, end).item_BL])
    for row in range(len(lengths)):
        own = cut(events, start[row : row + 1], end[row : row + 1])
        alone = encoder(table[:, own.item_BL])[:, 0]
        torch.testing.assert_close(together[:, row, : lengths[row]], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_histories_in_one_row_do_not_see_each_other(training) -> None:
    encoder = _encoder().train(training)
    table = torch.randn(S, 20, WIDTH)
    end = torch.tensor([3, 5, 9, 18])
    start = torch.tensor([0, 3, 5, 9])
    events = Events(torch.randint(0, 20, (18,)), torch.arange(18))
    packed = pack(cut(events, start, end), LENGTH)
    rows = packed.window
    assert len(rows.item_BL) == 2
    together = encoder(table[:, rows.item_BL], segment_mask(rows.position_BL))
    assert together.isfinite().all()
    for one, (row, last) in enumerate(zip(packed.row_W, packed.last_W, strict=True)):
        own = cut(events, start[one : one + 1], end[one : one + 1] - 1)
        alone = encoder(table[:, own.item_BL])[:, 0]
        found = together[:, row, last + 1 - alone.shape[1] : last + 1]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_segment_mask_by_hand() -> None:
    # Two histories, of three and two events, and a place of padding.
    mask = segment_mask(torch.tensor([[0, 1, 2, 0, 1, 0]]))[0]
    assert (mask[0, 1:] == 0).all()  # what is ahead, another mask hides
    seen = (mask == 0) & torch.ones(6, 6).tril().bool()
    assert [row.nonzero().flatten().tolist() for row in seen] == [
        [0], [0, 1], [0, 1, 2], [3], [3, 4], [5],
    ]  # fmt: skip
    assert (mask[mask != 0] <= -1e30).all()


def test_causal_mask_by_hand() -> None:
    far = float("-inf")
    assert causal_mask(3, torch.device("cpu")).tolist() == [[0, far, far], [0, 0, far], [0, 0, 0]]


def test_without_blocks_it_is_the_normalised_input() -> None:
    encoder, x = _encoder(layers=0), torch.randn(S, 1, 3, WIDTH)
    assert torch.equal(encoder(x), encoder.final_norm(x))


def test_states_of_some_streams_are_those_among_all() -> None:
    encoder, x = _encoder(), torch.randn(S, 2, LENGTH, WIDTH)
    every = encoder(x)
    for of in ([0], [1], [0, 1], [1, 0]):
        torch.testing.assert_close(encoder(x[of], of=torch.tensor(of)), every[of])
    swapped = encoder(
        x.flip(0), of=torch.tensor([0, 1])
    )  # each Transformer reads the other's stream
    assert not torch.allclose(swapped, every.flip(0))


def test_without_distances_there_is_no_bias_for_them() -> None:
    assert any("distance" in name for name, _ in _encoder().named_parameters())
    assert not any("distance" in name for name, _ in _encoder(False).named_parameters())


@pytest.mark.parametrize("relative_positions", [True, False])
def test_every_parameter_gets_a_gradient(relative_positions) -> None:
    encoder = _encoder(relative_positions).train()
    encoder(torch.randn(S, 2, LENGTH, WIDTH)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_works_in_training_only() -> None:
    encoder, x = _encoder(dropout=0.5), torch.randn(S, 1, 4, WIDTH)
    assert torch.equal(encoder(x), encoder(x))
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("relative_positions", [True, False])
def test_the_last_state_alone_is_that_among_all(relative_positions, layers) -> None:
    encoder, x = _encoder(relative_positions, layers=layers), torch.randn(S, 4, LENGTH, WIDTH)
    last = torch.tensor([LENGTH - 1, 0, 3, 5])
    expected = encoder(x)[:, torch.arange(4), last]
    torch.testing.assert_close(encoder.last(x, last), expected)
