"""CAMoE: weights, masks, gates and synergies against the equations written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from cammsr_cli.core.camoe import Camoe, CategoryHeads, Experts, Synergies

N, S, D, C, E = 7, 3, 8, 4, 2


def _camoe(**changed) -> Camoe:
    torch.manual_seed(0)
    given = {"guidance": True, "experts": E, "synergies": True, "categories": C, **changed}
    return Camoe(given.pop("streams", S), D, **given)


def _trained(camoe: Camoe) -> Camoe:
    """With random values where training starts from zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in camoe.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return camoe


def _streams() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    x = torch.randn(N, S, D)
    present = torch.tensor(
        [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    ).bool()
    return x, present


def test_weights_sum_to_one_and_are_zero_where_missing() -> None:
    x, present = _streams()
    fused = _trained(_camoe())(x, present)
    torch.testing.assert_close(fused.weight_NK.sum(1), torch.ones(N))
    m = present
    pairs = torch.stack([m[:, 0] & m[:, 1], m[:, 0] & m[:, 2], m[:, 1] & m[:, 2]], 1)
    there = torch.cat([m, pairs], 1)
    assert torch.equal(fused.present_NK, there)
    assert (fused.weight_NK[~there] == 0).all()
    assert (fused.weight_NK[there] > 0).all()


def test_untrained_camoe_is_the_identity_on_streams_and_its_synergies_are_nought() -> None:
    x, present = _streams()
    fused = _camoe()(x, present)
    assert torch.equal(fused.representation_NKD[:, :S], x)
    assert (fused.representation_NKD[:, S:] == 0).all()


def test_gates_sum_to_one_for_each_item_and_stream() -> None:
    x, present = _streams()
    gate = _trained(_camoe())(x, present).gate_NSE
    assert gate is not None
    assert gate.shape == (N, S, E)
    torch.testing.assert_close(gate.sum(-1), torch.ones(N, S))


def test_category_logits_are_the_mean_over_present_streams_plus_bias() -> None:
    x, present = _streams()
    heads = CategoryHeads(S, D, C)
    with torch.no_grad():
        heads.bias_C.copy_(torch.arange(C))
    logits, guide = heads(x, present)
    for n in range(N):
        each = [x[n, s] @ heads.weight_SDC[s] for s in range(S) if present[n, s]]
        expected = torch.stack(each).mean(0) + heads.bias_C
        torch.testing.assert_close(logits[n], expected)
        torch.testing.assert_close(guide[n], expected.softmax(0) @ heads.embedding_CD)


def test_experts_by_hand() -> None:
    torch.manual_seed(0)
    experts = Experts(S, E, D, hidden=5, dropout=0.0)
    with torch.no_grad():
        experts.w2_SFD.normal_()
    x, q = torch.randn(N, S, D), torch.randn(N, D)
    r, gate = experts(x, q)
    for n in range(N):
        for s in range(S):
            logits = x[n, s] @ experts.gate_x_SDE[s] + q[n] @ experts.gate_q_SDE[s]
            expected = x[n, s].clone()
            for e in range(E):
                rows = slice(5 * e, 5 * (e + 1))
                hidden = functional.gelu(x[n, s] @ experts.w1_SDF[s][:, rows])
                expected = expected + logits.softmax(0)[e] * (hidden @ experts.w2_SFD[s][rows])
            torch.testing.assert_close(r[n, s], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(gate[n, s], logits.softmax(0))


def test_synergies_by_hand() -> None:
    torch.manual_seed(0)
    pairs = [(0, 1), (0, 2), (1, 2)]
    synergies = Synergies(pairs, D, dropout=0.0)
    with torch.no_grad():
        synergies.w2_PDD.normal_()
    r = torch.randn(N, S, D)
    s = synergies(r)
    for p, (m, n) in enumerate(pairs):
        joined = torch.cat([r[:, m], r[:, n], r[:, m] * r[:, n]], 1)
        expected = functional.gelu(joined @ synergies.w1_PGD[p]) @ synergies.w2_PDD[p]
        torch.testing.assert_close(s[:, p], expected, rtol=1e-4, atol=1e-5)


def test_fusion_weights_are_a_masked_softmax_of_key_and_guided_query() -> None:
    x, present = _streams()
    camoe = _trained(_camoe(synergies=False))
    assert camoe.heads is not None
    fused = camoe(x, present)
    query = camoe.fusion_query(camoe.heads(x, present)[1])
    for n in range(N):
        at = [s for s in range(S) if present[n, s]]
        logits = torch.stack(
            [(fused.representation_NKD[n, s] + camoe.fusion_key_KD[s]) @ query[n] for s in at]
        )
        torch.testing.assert_close(fused.weight_NK[n, at], logits.softmax(0))


def test_guidance_steers_gates_and_fusion() -> None:
    x, present = _streams()
    camoe = _trained(_camoe())
    assert camoe.heads is not None
    before = camoe(x, present)
    with torch.no_grad():
        camoe.heads.bias_C.copy_(torch.tensor([9.0, 0, 0, 0]))  # other categories predicted
    after = camoe(x, present)
    assert not torch.allclose(before.gate_NSE, after.gate_NSE, atol=1e-3)
    assert not torch.allclose(before.weight_NK, after.weight_NK, atol=1e-3)


@pytest.mark.parametrize("changed", [{"guidance": False}, {"categories": 0}])
def test_without_guidance_or_categories_one_learnt_query_serves_all(changed) -> None:
    x, present = _streams()
    camoe = _camoe(**changed)
    assert camoe.heads is None
    fused = camoe(x, present)
    assert fused.category_NC.shape == (N, 0)
    torch.testing.assert_close(fused.weight_NK.sum(1), torch.ones(N))


def test_without_experts_there_are_no_gates() -> None:
    x, present = _streams()
    fused = _trained(_camoe(experts=0))(x, present)
    assert fused.gate_NSE is None
    assert torch.equal(fused.representation_NKD[:, :S], x)


def test_without_synergies_representations_are_the_streams() -> None:
    x, present = _streams()
    camoe = _camoe(synergies=False)
    assert camoe.representations == S
    assert camoe(x, present).representation_NKD.shape == (N, S, D)
    assert _camoe().representations == S + 3
    assert _camoe(streams=1).representations == 1


def test_items_do_not_influence_each_other() -> None:
    x, present = _streams()
    camoe = _trained(_camoe())
    together = camoe(x, present)
    for n in range(N):
        alone = camoe(x[n : n + 1], present[n : n + 1])
        torch.testing.assert_close(alone.weight_NK[0], together.weight_NK[n])
        torch.testing.assert_close(alone.representation_NKD[0], together.representation_NKD[n])


def test_every_parameter_gets_a_finite_gradient() -> None:
    x, present = _streams()
    camoe = _trained(_camoe())
    fused = camoe(x, present)
    out = torch.einsum("nk,nkd->nd", fused.weight_NK, fused.representation_NKD)
    (out.square().sum() + fused.category_NC.square().sum()).backward()
    for name, parameter in camoe.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
