"""Each stream's layers by their formulas; the Transformer against attention written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from cammsr_cli.model.layers import (
    Dropout,
    StreamLinear,
    StreamNorm,
    TransformerBlock,
    rows_of_table,
)

S, WIDTH = 3, 8


def _some_linear() -> StreamLinear:
    torch.manual_seed(0)
    linear = StreamLinear(S, 4, 6)
    torch.nn.init.normal_(linear.weight_SIO)
    torch.nn.init.normal_(linear.bias_SO)
    return linear


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_each_stream_has_a_linear_layer_of_its_own(shape) -> None:
    linear, x = _some_linear(), torch.randn(S, *shape, 4)
    out = linear(x)
    assert out.shape == (S, *shape, 6)
    for s in range(S):
        expected = functional.linear(x[s], linear.weight_SIO[s].T, linear.bias_SO[s])
        torch.testing.assert_close(out[s], expected)


def test_some_outputs_of_a_linear_layer_are_those_among_all() -> None:
    linear, x = _some_linear(), torch.randn(S, 2, 5, 4)
    torch.testing.assert_close(linear.part(x, slice(2, 5)), linear(x)[..., 2:5])
    torch.testing.assert_close(linear(x[[1, 0]], torch.tensor([1, 0])), linear(x)[[1, 0]])


@pytest.mark.parametrize("of", [[0], [2, 0], [1, 2], [0, 1, 2]])
def test_some_streams_go_through_the_layers_of_just_those(of: list[int]) -> None:
    norm, tanh = StreamNorm([False] * S, 4), StreamNorm([True] * S)
    mixed = StreamNorm([True, False, True], 4)
    with torch.no_grad():
        norm.scale_SD.normal_()
        norm.shift_SD.normal_()
        tanh.alpha_S.copy_(torch.tensor([0.1, 0.5, 2.0]))
        mixed.alpha_S.copy_(torch.tensor([0.1, 2.0]))
        mixed.scale_SD.normal_()
    x = torch.randn(S, 2, 5, 4)
    for layer in (_some_linear(), norm, tanh, mixed):
        torch.testing.assert_close(layer(x[of], torch.tensor(of)), layer(x)[of])
    block, x = _block(), torch.randn(S, 2, 4, WIDTH)
    torch.testing.assert_close(block(x[of], of=torch.tensor(of)), block(x)[of])


def test_layer_norm_is_that_of_torch_for_each_stream() -> None:
    torch.manual_seed(0)
    layer, x = StreamNorm([False] * S, 4), torch.randn(S, 2, 5, 4) * 3 + 1
    torch.testing.assert_close(layer(x), functional.layer_norm(x, (4,)))
    with torch.no_grad():
        layer.scale_SD.normal_()
        layer.shift_SD.normal_()
    for y in (x, x[:, 0], x[:, 0, 0]):
        expected = [
            functional.layer_norm(y[s], (4,), layer.scale_SD[s], layer.shift_SD[s])
            for s in range(S)
        ]
        torch.testing.assert_close(layer(y), torch.stack(expected))


def test_dynamic_tanh_by_hand() -> None:
    layer = StreamNorm([True] * 2)
    # alpha starts at 0.5: tanh(0.5 * 2) and tanh(0.5 * -4).
    out = layer(torch.tensor([[2.0], [-4.0]]))
    torch.testing.assert_close(out, torch.tensor([[math.tanh(1.0)], [math.tanh(-2.0)]]))


def test_dynamic_tanh_learns_one_alpha_a_stream_and_nothing_else() -> None:
    shapes = {name: tuple(value.shape) for name, value in StreamNorm([True] * 6).named_parameters()}
    assert shapes == {"alpha_S": (6,)}


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3)])
def test_gradients_of_dynamic_tanh_are_those_of_its_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = StreamNorm([True] * 2).double()
    torch.nn.init.normal_(layer.alpha_S)
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, *shape, dtype=torch.float64)
    asked = [x, layer.alpha_S]
    ours = torch.autograd.grad(layer(x), asked, grad)
    formula = torch.stack([torch.tanh(layer.alpha_S[s] * x[s]) for s in range(2)])
    for got, expected in zip(ours, torch.autograd.grad(formula, asked, grad), strict=True):
        torch.testing.assert_close(got, expected)


def test_streams_may_be_normalised_each_in_its_way() -> None:
    layer = StreamNorm([True, False, True], 4)
    with torch.no_grad():
        layer.alpha_S.copy_(torch.tensor([0.3, 2.0]))
        layer.scale_SD.normal_()
        layer.shift_SD.normal_()
    x = torch.randn(S, 2, 5, 4) * 3
    normed = [torch.tanh(0.3 * x[0]), functional.layer_norm(x[1], (4,)), torch.tanh(2 * x[2])]
    for s in range(S):
        torch.testing.assert_close(layer(x)[s], normed[s] * layer.scale_SD[s] + layer.shift_SD[s])
    plain = StreamNorm([False] * S)
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(x), functional.layer_norm(x, (4,)))


def test_dynamic_tanh_computes_no_statistics() -> None:
    layer = StreamNorm([True])
    row = torch.randn(1, 1, 3)
    with_others = layer(torch.cat([row, 100 * torch.randn(1, 5, 3)], dim=1))
    torch.testing.assert_close(with_others[:, :1], layer(row))


def _block(
    dropout: float = 0.0, relative_positions: int = 6, dyt: list[bool] | None = None
) -> TransformerBlock:
    """With random values, large enough for all to be plain to see."""
    torch.manual_seed(0)
    block = TransformerBlock(dyt or [False] * S, WIDTH, 2, dropout, relative_positions)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return block


def _attention_by_hand(block: TransformerBlock, x_SBLD: torch.Tensor) -> torch.Tensor:
    """The block's attention with loops over streams, users, heads and positions."""
    streams, batch, length, width = x_SBLD.shape
    q, k, v = block.query_key_value(x_SBLD).split(width, dim=-1)
    size = width // block.heads
    mixed = torch.zeros_like(x_SBLD)
    for s in range(streams):
        for b in range(batch):
            for head in range(block.heads):
                part = slice(head * size, (head + 1) * size)
                for t in range(length):
                    logits = q[s, b, t, part] @ k[s, b, : t + 1, part].T / size**0.5
                    if block.distance_bias_LX is not None:
                        bias_L = block.distance_bias_LX[:, s * block.heads + head]
                        logits = logits + bias_L[: t + 1].flip(0)  # the nearest is the last
                    mixed[s, b, t, part] = logits.softmax(0) @ v[s, b, : t + 1, part]
    return block.attention_out(mixed)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("relative_positions", [0, 4, 6])
@pytest.mark.parametrize("dyt", [[False], [False] * 3, [False, True, False]])
def test_block_is_pre_norm_causal_attention_then_feed_forward(
    dyt, relative_positions, training
) -> None:
    block = _block(0.0 if training else 0.5, relative_positions, dyt).train(training)
    x = torch.randn(len(dyt), 2, 4, WIDTH)
    attended = x + _attention_by_hand(block, block.attention_norm(x))
    hidden = functional.gelu(block.feed_forward_in(block.feed_forward_norm(attended)))
    for s, is_dyt in enumerate(dyt):
        if not is_dyt:
            expected = functional.layer_norm(x[s], (WIDTH,))
            torch.testing.assert_close(block.attention_norm(x)[s], expected)
    torch.testing.assert_close(block(x), attended + block.feed_forward_out(hidden))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_streams_do_not_see_each_other(training) -> None:
    """Each of them is what a block of it alone would make."""
    block, x = _block().train(training), torch.randn(S, 2, 4, WIDTH)
    together = block(x)
    for s in range(S):
        alone = _block(dyt=[False]).train(training)
        own = {name: value[s : s + 1] for name, value in block.state_dict().items()}
        own["distance_bias_LX"] = block.distance_bias_LX[:, 2 * s : 2 * (s + 1)]
        alone.load_state_dict(own)
        torch.testing.assert_close(alone(x[s : s + 1])[0], together[s])


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("of", [None, [2, 0]])
def test_a_mask_hides_what_it_is_far_below_nought_for(training, of) -> None:
    block, x = _block().train(training), torch.randn(S, 2, 5, WIDTH)
    x = x if of is None else x[of]
    of = None if of is None else torch.tensor(of)
    mask_BLL = torch.zeros(2, 5, 5)
    mask_BLL[1, 3:, :3] = -1e30  # the second row holds two histories, of three and two events
    together = block(x, mask_BLL, of)
    torch.testing.assert_close(together[:, 0], block(x[:, :1], of=of)[:, 0])
    torch.testing.assert_close(together[:, 1:, :3], block(x[:, 1:, :3], of=of))
    torch.testing.assert_close(together[:, 1:, 3:], block(x[:, 1:, 3:], of=of))


def test_an_untrained_block_weighs_no_distance() -> None:
    torch.manual_seed(0)
    with_bias = TransformerBlock([False] * S, WIDTH, 2, 0.0, relative_positions=6).eval()
    without = TransformerBlock([False] * S, WIDTH, 2, 0.0).eval()
    assert "distance_bias_LX" not in dict(without.named_parameters())
    rest = {k: v for k, v in with_bias.state_dict().items() if k != "distance_bias_LX"}
    without.load_state_dict(rest)
    x = torch.randn(S, 2, 4, WIDTH)
    torch.testing.assert_close(with_bias(x), without(x))


def test_block_never_looks_ahead() -> None:
    x = torch.randn(S, 1, 6, WIDTH)
    changed = x.clone()
    changed[:, 0, 3, 0] += 1  # of one channel: what is added to all is normalised away
    for training in (False, True):
        block = _block().train(training)
        before, after = block(x)[:, 0], block(changed)[:, 0]
        torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=0)
        assert ((after[:, 3:] - before[:, 3:]).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("dyt", [[False, False, False], [False, True, False]])
@pytest.mark.parametrize("relative_positions", [0, 6])
def test_the_last_position_alone_is_that_among_all(relative_positions, dyt) -> None:
    block, x = _block(0.5, relative_positions, dyt).eval(), torch.randn(S, 4, 6, WIDTH)
    last_B = torch.tensor([5, 0, 3, 1])
    expected = block(x)[:, torch.arange(4), last_B]
    torch.testing.assert_close(block.last(x, last_B), expected)


def test_training_drops_whole_attention_weights_and_scales_up_the_others() -> None:
    """All values 1: what comes out is the sum of the weights, a weight dropped for all channels."""
    block = TransformerBlock([False], WIDTH, 2, 0.5, 6)
    torch.manual_seed(0)
    torch.nn.init.normal_(block.query_key_value.weight_SIO, std=0.4)
    with torch.no_grad():
        block.query_key_value.bias_SO[:, 2 * WIDTH :] = 1
        block.query_key_value.weight_SIO[:, :, 2 * WIDTH :] = 0
        block.attention_out.weight_SIO.copy_(torch.eye(WIDTH))
    x = torch.randn(1, 1, 5, WIDTH).expand(1, 3000, 5, WIDTH)
    sums = block._attend(x, None, None).view(3000, 5, 2, 4)  # 2 heads of 4 channels
    assert torch.allclose(sums, sums[..., :1].expand_as(sums))
    assert sums[:, 0].unique().tolist() == [0, 2]  # the first position has one weight
    torch.testing.assert_close(sums.mean(0), torch.ones(5, 2, 4), rtol=0, atol=0.1)
    assert len(sums[:, 4, 0, 0].unique()) > 20  # the fifth has five, each on its own: 2**5
    alone = block.eval()._attend(x[:, :1], None, None)
    torch.testing.assert_close(alone, torch.ones(1, 1, 5, WIDTH))


def test_block_drops_in_training_only() -> None:
    block, x = _block(dropout=0.5), torch.randn(S, 1, 4, WIDTH)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_every_parameter_gets_a_gradient() -> None:
    block = _block(relative_positions=4)
    block(torch.randn(S, 2, 4, WIDTH)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_up_the_others(share: float) -> None:
    torch.manual_seed(0)
    drop = Dropout(share)
    rounded = round(share * 256) / 256
    values = 200_000
    out = drop(torch.ones(values))
    kept = out[out != 0]
    assert kept.unique().tolist() == pytest.approx([1 / (1 - rounded)])
    deviation = math.sqrt(values * rounded * (1 - rounded))
    assert abs(values - len(kept) - values * rounded) < 5 * deviation
    # What is kept is scaled by just what is lost: nothing changes on average.
    assert out.mean().item() == pytest.approx(1, abs=5 * deviation / values / (1 - rounded))


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_share_that_rounds_to_none_or_all_drops_some_and_keeps_some(share: float) -> None:
    torch.manual_seed(0)
    out = Dropout(share)(torch.ones(100_000))
    assert out.isfinite().all()
    assert 0 < (out == 0).sum() < len(out)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (9,), (3, 5), (2, 3, 7), (0,), (4, 0)])
def test_dropout_takes_any_shape(shape) -> None:
    torch.manual_seed(0)
    x = torch.rand(shape) + 1
    seen_kept = torch.zeros(shape, dtype=torch.bool)
    seen_dropped = seen_kept.clone()
    for _ in range(60):
        out = Dropout(0.5)(x)
        assert out.shape == x.shape
        assert ((out == 0) | torch.isclose(out, 2 * x)).all()
        seen_kept |= out != 0
        seen_dropped |= out == 0
    assert seen_kept.all()  # no value is for ever left out, none for ever spared
    assert seen_dropped.all()


def test_values_that_share_a_draw_are_dropped_on_their_own() -> None:
    """Eight neighbours come of one number: each pair of them must be independent all the same."""
    torch.manual_seed(0)
    rows = 40_000
    dropped = (Dropout(0.25)(torch.ones(rows, 16)) == 0).double()
    torch.testing.assert_close(
        dropped.mean(0), torch.full((16,), 0.25).double(), rtol=0, atol=0.012
    )
    correlation = torch.corrcoef(dropped.T) - torch.eye(16)
    assert correlation.abs().max() < 5 / math.sqrt(rows)


def test_dropout_draws_anew_at_each_call_and_repeats_by_seed() -> None:
    drop, x = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(0)
    first, second = drop(x), drop(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(drop(x), first)


def test_dropout_does_nothing_in_evaluation_or_at_share_nought() -> None:
    x = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_flows_through_what_is_kept(dtype) -> None:
    x = torch.randn(5, 9, dtype=dtype, requires_grad=True)
    out = Dropout(0.5)(x.T)  # not contiguous
    assert out.dtype == dtype
    out.sum().backward()
    assert torch.equal(x.grad.T, torch.where(out == 0, 0, 2).to(dtype))


def test_rows_of_a_table_have_the_gradient_of_torch_s_own_each_row_once() -> None:
    table = torch.randn(7, 3, requires_grad=True)
    row = torch.tensor([5, 1, 5, 0, 1])
    met, place = torch.unique(row, return_inverse=True)
    factor = torch.randn(5, 3)
    (rows_of_table(table, row, met, place) * factor).sum().backward()
    ours = table.grad
    assert ours is not None
    assert ours.is_sparse
    assert ours._indices().tolist() == [[0, 1, 5]]  # each once, and rising
    table.grad = None
    (functional.embedding(row, table, sparse=True) * factor).sum().backward()
    theirs = table.grad
    assert theirs is not None
    torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
