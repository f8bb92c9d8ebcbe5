"""Dynamic Tanh by its formula; the Transformer block against attention written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from cammsr_cli.core.layers import Dropout, DynamicTanh, TransformerBlock, make_norm


def test_dynamic_tanh_by_hand() -> None:
    layer = DynamicTanh(2)
    # alpha starts at 0.5: tanh(0.5 * 2) and tanh(0.5 * -4).
    out = layer(torch.tensor([[2.0, -4.0]]))
    torch.testing.assert_close(out, torch.tensor([[math.tanh(1.0), math.tanh(-2.0)]]))


def test_dynamic_tanh_scales_and_shifts_each_channel() -> None:
    layer = DynamicTanh(2, alpha=0.25)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, -3.0]))
        layer.bias.copy_(torch.tensor([0.5, 1.0]))
    out = layer(torch.tensor([4.0, 8.0]))
    expected = torch.tensor([2 * math.tanh(1.0) + 0.5, -3 * math.tanh(2.0) + 1.0])
    torch.testing.assert_close(out, expected)


def test_dynamic_tanh_learns_one_scale_and_channelwise_weight_and_bias() -> None:
    shapes = {name: tuple(value.shape) for name, value in DynamicTanh(6).named_parameters()}
    assert shapes == {"alpha": (1,), "weight": (6,), "bias": (6,)}


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3)])
def test_gradients_of_dynamic_tanh_are_those_of_its_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = DynamicTanh(3).double()
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(shape, dtype=torch.float64)
    asked = [x, layer.alpha, layer.weight, layer.bias]
    ours = torch.autograd.grad(layer(x), asked, grad)
    formula = layer.weight * torch.tanh(layer.alpha * x) + layer.bias
    for got, expected in zip(ours, torch.autograd.grad(formula, asked, grad), strict=True):
        torch.testing.assert_close(got, expected)


def test_dynamic_tanh_computes_no_statistics() -> None:
    layer = DynamicTanh(3)
    row = torch.randn(1, 3)
    with_others = layer(torch.cat([row, 100 * torch.randn(5, 3)]))
    torch.testing.assert_close(with_others[:1], layer(row))


def test_make_norm_gives_what_is_asked() -> None:
    assert isinstance(make_norm("dyt", 4), DynamicTanh)
    assert isinstance(make_norm("layernorm", 4), torch.nn.LayerNorm)


def _block(norm="dyt", dropout: float = 0.0, distances: int = 6) -> TransformerBlock:
    """With random values where training starts from zero."""
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, dropout, norm, distances)
    if block.distance_bias_LA is not None:
        torch.nn.init.normal_(block.distance_bias_LA)
    return block


def _attention_by_hand(block: TransformerBlock, x_BLD: torch.Tensor) -> torch.Tensor:
    """The block's attention with loops over users, heads and positions."""
    batch, length, width = x_BLD.shape
    q, k, v = block.query_key_value(x_BLD).split(width, dim=-1)
    size = width // block.heads
    mixed = torch.zeros_like(x_BLD)
    for b in range(batch):
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(length):
                logits = torch.stack(
                    [
                        q[b, t, part] @ k[b, s, part] / size**0.5
                        + (
                            0
                            if block.distance_bias_LA is None
                            else block.distance_bias_LA[t - s, head]
                        )
                        for s in range(t + 1)
                    ]
                )
                mixed[b, t, part] = logits.softmax(0) @ v[b, : t + 1, part]
    return block.attention_out(mixed)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("distances", [0, 4, 6])
@pytest.mark.parametrize("norm", ["dyt", "layernorm"])
def test_block_is_pre_norm_causal_attention_then_feed_forward(norm, distances, training) -> None:
    block = _block(norm, dropout=0.0 if training else 0.5, distances=distances).train(training)
    x = torch.randn(2, 4, 8)
    attended = x + _attention_by_hand(block, block.attention_norm(x))
    first, last = block.feed_forward[0], block.feed_forward[3]
    expected = attended + last(functional.gelu(first(block.feed_forward_norm(attended))))
    torch.testing.assert_close(block(x), expected)


def test_an_untrained_block_weighs_no_distance() -> None:
    torch.manual_seed(0)
    with_bias = TransformerBlock(8, 2, 0.0, "dyt", distances=6).eval()
    without = TransformerBlock(8, 2, 0.0, "dyt").eval()
    assert "distance_bias_LA" not in dict(without.named_parameters())
    rest = {k: v for k, v in with_bias.state_dict().items() if k != "distance_bias_LA"}
    without.load_state_dict(rest)
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(with_bias(x), without(x))


def test_block_never_looks_ahead() -> None:
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[0, 3] += 1
    for training in (False, True):
        block = _block().train(training)
        before, after = block(x)[0], block(changed)[0]
        torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=0)
        assert ((after[3:] - before[3:]).abs().amax(-1) > 1e-4).all()


def test_training_drops_whole_attention_weights_and_scales_up_the_others() -> None:
    """All values 1: what comes out is the sum of the weights, a weight dropped for all channels."""
    block = _block(dropout=0.5)
    width = 8
    with torch.no_grad():
        for layer in (block.query_key_value, block.attention_out):
            layer.bias.zero_()
        block.query_key_value.bias[2 * width :] = 1
        block.query_key_value.weight[2 * width :] = 0
        block.attention_out.weight.copy_(torch.eye(width))
    x = torch.randn(1, 5, width).expand(3000, 5, width)
    sums = block._attend(x, None).view(3000, 5, 2, 4)  # 2 heads of 4 channels
    assert torch.allclose(sums, sums[..., :1].expand_as(sums))
    assert sums[:, 0].unique().tolist() == [0, 2]  # the first position has one weight
    torch.testing.assert_close(sums.mean(0), torch.ones(5, 2, 4), rtol=0, atol=0.1)
    assert len(sums[:, 4, 0, 0].unique()) > 20  # the fifth has five, each on its own: 2**5
    torch.testing.assert_close(block.eval()._attend(x[:1], None), torch.ones(1, 5, width))


def test_block_drops_in_training_only() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, dropout=0.5, norm="dyt")
    x = torch.randn(1, 4, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


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
