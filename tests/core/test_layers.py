"""Dynamic Tanh by its formula; the Transformer block against attention written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from cammsr_cli.core.layers import DynamicTanh, TransformerBlock, make_norm


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


def test_dynamic_tanh_computes_no_statistics() -> None:
    layer = DynamicTanh(3)
    row = torch.randn(1, 3)
    with_others = layer(torch.cat([row, 100 * torch.randn(5, 3)]))
    torch.testing.assert_close(with_others[:1], layer(row))


def test_make_norm_gives_what_is_asked() -> None:
    assert isinstance(make_norm("dyt", 4), DynamicTanh)
    assert isinstance(make_norm("layernorm", 4), torch.nn.LayerNorm)


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
                    [q[b, t, part] @ k[b, s, part] / size**0.5 for s in range(t + 1)]
                )
                mixed[b, t, part] = logits.softmax(0) @ v[b, : t + 1, part]
    return block.attention_out(mixed)


@pytest.mark.parametrize("norm", ["dyt", "layernorm"])
def test_block_is_pre_norm_causal_attention_then_feed_forward(norm) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, dropout=0.5, norm=norm).eval()
    x = torch.randn(2, 4, 8)
    attended = x + _attention_by_hand(block, block.attention_norm(x))
    first, last = block.feed_forward[0], block.feed_forward[3]
    expected = attended + last(functional.gelu(first(block.feed_forward_norm(attended))))
    torch.testing.assert_close(block(x), expected)


def test_block_never_looks_ahead() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, dropout=0.0, norm="dyt").eval()
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[0, 3] += 1
    before, after = block(x)[0], block(changed)[0]
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=0)
    assert ((after[3:] - before[3:]).abs().amax(-1) > 1e-4).all()


def test_block_drops_in_training_only() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, dropout=0.5, norm="dyt")
    x = torch.randn(1, 4, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
