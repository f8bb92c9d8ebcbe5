"""CAMoE: routers, experts and guidance by hand, and what each may see and may not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from cammsr_cli.model.device_kernels import segment_mask
from cammsr_cli.model.experts import Camoe, CategoryGuide, Router, difference, equal_weights
from cammsr_cli.model.user_encoder import causal_mask

N, S, B, L, D, E, H, C = 7, 3, 2, 5, 8, 2, 6, 4
CAUSAL = causal_mask(L, torch.device("cpu"))
each_router = pytest.mark.parametrize("router", ["attention", "linear"])
each_input = pytest.mark.parametrize("inputs", ["all", "own"])


def _camoe(**changed) -> Camoe:
    """With random values, large enough for all to be plain to see."""
    torch.manual_seed(0)
    given = {"streams": S, "width": D, "experts": E, "hidden": H} | changed
    camoe = Camoe(**given).eval()
    for parameter in camoe.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return camoe


def _history() -> tuple[torch.Tensor, torch.Tensor]:
    """Streams of two histories, and weights of their experts."""
    torch.manual_seed(1)
    return torch.randn(S, B, L, D), torch.rand(S, B, L)


def _streams() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Streams of seven items, which ones they have, and labels: 2 of item 4, none of item 6."""
    torch.manual_seed(2)
    present = torch.tensor(
        [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    ).bool()
    label = functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 1, 2]), C).bool()
    label[4, 3] = True
    label[6] = False
    return torch.randn(S, N, D), present, label


# Routers.


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
def test_linear_router_by_hand(normalised) -> None:
    router, (e, _) = Router(S, D, E, "linear", normalised), _history()
    gate = router(e, CAUSAL)
    for s in range(S):
        expected = e[s] @ router.linear.weight_SIO[s] + router.linear.bias_SO[s]
        torch.testing.assert_close(gate[s], expected.softmax(-1) if normalised else expected)


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
def test_attentive_router_by_hand(normalised) -> None:
    router, (e, _) = Router(S, D, E, "attention", normalised), _history()
    torch.nn.init.normal_(router.linear.weight_SIO)
    gate = router(e, CAUSAL)
    assert gate.shape == (S, B, L, E)
    q, k, v = router.linear(e).split(E, dim=-1)
    for s in range(S):
        for b in range(B):
            for t in range(L):
                weight = (k[s, b, : t + 1] @ q[s, b, t] / E**0.5).softmax(0)
                expected = weight @ v[s, b, : t + 1]
                expected = expected.softmax(0) if normalised else expected
                torch.testing.assert_close(gate[s, b, t], expected)


@each_router
def test_gates_sum_to_one_if_asked_and_only_then(router) -> None:
    e, _ = _history()
    sums = Router(S, D, E, router, normalised=True)(e, CAUSAL).sum(-1)
    torch.testing.assert_close(sums, torch.ones(S, B, L))
    assert not torch.allclose(Router(S, D, E, router, normalised=False)(e, CAUSAL).sum(-1), sums)


# Experts.


@each_router
@each_input
def test_experts_by_hand(inputs, router) -> None:
    camoe, (e, guide) = _camoe(inputs=inputs, router=router), _history()
    gate = camoe.router(e, CAUSAL)
    added = camoe(e, guide, CAUSAL) - e
    for s in range(S):
        for b in range(B):
            for t in range(L):
                read = torch.cat([e[n, b, t] for n in range(S)]) if inputs == "all" else e[s, b, t]
                expected = torch.zeros(D)
                for k in range(E):
                    at = slice(H * k, H * (k + 1))
                    inner = read @ camoe.experts_in.weight_SIO[s][:, at]
                    inner = functional.gelu(inner + camoe.experts_in.bias_SO[s, at])
                    outer = inner @ camoe.experts_out_SFD[s, at] + camoe.experts_shift_SED[s, k]
                    expected = expected + gate[s, b, t, k] * outer
                expected = guide[s, b, t] * expected
                torch.testing.assert_close(added[s, b, t], expected, rtol=1e-4, atol=1e-4)


def test_experts_that_weigh_nothing_add_nothing() -> None:
    camoe, (e, guide) = _camoe(), _history()
    guide[1] = 0
    enriched = camoe(e, guide, CAUSAL)
    assert torch.equal(enriched[1], e[1])
    assert (enriched[[0, 2]] != e[[0, 2]]).any(-1).all()
    twice = camoe(e, 2 * guide, CAUSAL)
    torch.testing.assert_close(twice - e, 2 * (enriched - e), rtol=1e-4, atol=1e-5)


@each_router
@each_input
def test_experts_read_all_streams_or_their_own(inputs, router) -> None:
    camoe, (e, guide) = _camoe(inputs=inputs, router=router), _history()
    other = e.clone()
    other[1] = torch.randn(B, L, D)
    added, changed = (camoe(one, guide, CAUSAL) - one for one in (e, other))
    differs = (added - changed).abs().amax((1, 2, 3)) > 1e-4
    assert differs.tolist() == [inputs == "all", True, inputs == "all"]


@each_router
@each_input
def test_a_later_event_never_changes_an_earlier_one(inputs, router) -> None:
    camoe, (e, guide) = _camoe(inputs=inputs, router=router), _history()
    before = camoe(e, guide, CAUSAL)
    for at in range(1, L):
        other = e.clone()
        other[:, :, at] = torch.randn(S, B, D)
        after = camoe(other, guide, CAUSAL)
        torch.testing.assert_close(after[:, :, :at], before[:, :, :at], rtol=0, atol=0)
        seen = (after[:, :, at + 1 :] - before[:, :, at + 1 :]).abs().amax(-1) > 1e-6
        # By attention, what is ahead is gated otherwise; a linear router looks at itself alone.
        assert seen.all() if router == "attention" else not seen.any()


@each_router
def test_histories_in_one_row_do_not_see_each_other(router) -> None:
    camoe, (e, guide) = _camoe(router=router), _history()
    mask_BLL = CAUSAL + segment_mask(torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]))
    together = camoe(e, guide, mask_BLL)
    assert together.isfinite().all()
    for b, part in [(0, slice(2)), (0, slice(2, 5)), (1, slice(4)), (1, slice(4, 5))]:
        at = (slice(None), slice(b, b + 1), part)
        alone = camoe(e[at], guide[at], CAUSAL[part, part])
        torch.testing.assert_close(together[at], alone, rtol=1e-4, atol=1e-5)


def test_experts_drop_in_training_only() -> None:
    camoe, (e, guide) = _camoe(dropout=0.5), _history()
    assert torch.equal(camoe(e, guide, CAUSAL), camoe(e, guide, CAUSAL))
    camoe.train()
    assert not torch.equal(camoe(e, guide, CAUSAL), camoe(e, guide, CAUSAL))


@pytest.mark.parametrize("experts", [1, 4])
def test_weights_begin_as_xavier_s_of_a_single_expert(experts) -> None:
    torch.manual_seed(0)
    camoe = Camoe(S, D, experts, 50)
    for weights, fan in ((camoe.experts_in.weight_SIO, S * D + 50), (camoe.experts_out_SFD, 58)):
        bound = (6 / fan) ** 0.5
        assert weights.abs().max() <= bound
        assert weights.abs().max() > 0.95 * bound
    assert not camoe.experts_in.bias_SO.any()
    assert not camoe.experts_shift_SED.any()


@each_router
@each_input
def test_every_parameter_gets_a_finite_gradient(inputs, router) -> None:
    camoe, (e, guide) = _camoe(inputs=inputs, router=router), _history()
    camoe(e, guide, CAUSAL).square().sum().backward()
    for name, parameter in camoe.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# Guidance.


def _guide(guidance="difference") -> CategoryGuide:
    torch.manual_seed(0)
    guide = CategoryGuide(S, D, C, guidance)
    for parameter in guide.parameters():
        torch.nn.init.normal_(parameter)
    return guide


def test_each_stream_predicts_categories_for_itself() -> None:
    x, present, label = _streams()
    guide = _guide()
    logits, _ = guide(x, present, label)
    for s in range(S):
        expected = x[s] @ guide.linear.weight_SIO[s] + guide.linear.bias_SO[s]
        torch.testing.assert_close(logits[s], expected)


def test_difference_is_the_largest_cross_entropy_over_an_item_s_labels() -> None:
    x, present, label = _streams()
    logits, _ = _guide()(x, present, label)
    d = difference(logits, label)
    assert d.shape == (N, S)
    for n in range(N - 1):  # the last has no label
        for s in range(S):
            each = [
                functional.binary_cross_entropy_with_logits(
                    logits[s, n], functional.one_hot(c, C).float(), reduction="sum"
                )
                for c in label[n].nonzero().squeeze(1)
            ]
            torch.testing.assert_close(d[n, s], max(each))
    assert d[N - 1].isfinite().all()


def test_difference_of_two_labels_is_that_of_the_one_predicted_worse() -> None:
    logits = torch.tensor([[[3.0, -2.0, 0.5]]])
    both, worse = torch.tensor([[True, True, False]]), torch.tensor([[False, True, False]])
    assert torch.equal(difference(logits, both), difference(logits, worse))


def test_difference_of_certain_predictions_is_finite() -> None:
    logits = torch.tensor([[[200.0, -200.0], [200.0, -200.0]]], requires_grad=True)
    d = difference(logits, torch.eye(2).bool())
    torch.testing.assert_close(d, torch.tensor([[0.0], [400.0]]))
    d.sum().backward()
    assert logits.grad.isfinite().all()


def test_difference_is_of_full_precision() -> None:
    logits = torch.randn(S, N, C).bfloat16()
    label = torch.ones(N, C).bool()
    assert torch.equal(difference(logits, label), difference(logits.float(), label))


@pytest.mark.parametrize("guidance", ["difference", "accuracy", "equal"])
def test_weights_sum_to_one_and_are_zero_where_missing(guidance) -> None:
    x, present, label = _streams()
    for given in (label, None):
        _, weight = _guide(guidance)(x, present, given)
        torch.testing.assert_close(weight.sum(1), torch.ones(N))
        assert (weight[~present] == 0).all()
        assert (weight[present] > 0).all()


@pytest.mark.parametrize(("guidance", "sign"), [("difference", 1), ("accuracy", -1)])
def test_weights_are_a_softmax_over_the_streams_an_item_has(guidance, sign) -> None:
    x, present, label = _streams()
    logits, weight = _guide(guidance)(x, present, label)
    d = difference(logits, label)
    for n in range(N - 1):
        at = present[n].nonzero().squeeze(1)
        torch.testing.assert_close(weight[n, at], (sign * d[n, at]).softmax(0))


def test_of_two_streams_the_one_that_predicts_worse_has_more_by_difference() -> None:
    x = torch.tensor([3.0, -1.0]).view(2, 1, 1)  # the second misses the only category
    present, label = torch.ones(1, 2).bool(), torch.ones(1, 1).bool()
    by = {}
    for guidance in ("difference", "accuracy", "equal"):
        guide = CategoryGuide(2, 1, 1, guidance)
        torch.nn.init.ones_(guide.linear.weight_SIO)
        by[guidance] = guide(x, present, label)[1][0].tolist()
    assert by["difference"][0] < 0.5 < by["difference"][1]
    assert by["accuracy"] == pytest.approx(by["difference"][::-1])
    assert by["equal"] == [0.5, 0.5]


@pytest.mark.parametrize("guidance", ["difference", "accuracy", "equal"])
def test_without_labels_streams_weigh_alike(guidance) -> None:
    x, present, label = _streams()
    alike = torch.tensor([[2, 2, 2], [6, 0, 0], [0, 6, 0], [0, 0, 6], [3, 3, 0], [3, 0, 3]]) / 6
    torch.testing.assert_close(equal_weights(present)[:6], alike)
    guide = _guide(guidance)
    assert torch.equal(guide(x, present, None)[1], equal_weights(present))
    weight = guide(x, present, label)[1]
    assert torch.equal(weight[6], torch.tensor([0, 0.5, 0.5]))
    assert (guidance == "equal") == torch.equal(weight, equal_weights(present))


def test_items_do_not_influence_each_other() -> None:
    x, present, label = _streams()
    guide = _guide()
    logits, weight = guide(x, present, label)
    for n in range(N):
        at = slice(n, n + 1)
        alone = guide(x[:, at], present[at], label[at])
        torch.testing.assert_close(alone[0][:, 0], logits[:, n])
        torch.testing.assert_close(alone[1][0], weight[n])


@pytest.mark.parametrize("guidance", ["difference", "accuracy"])
def test_the_weights_teach_the_predictor(guidance) -> None:
    x, present, label = _streams()
    guide = _guide(guidance)
    weight = guide(x, present, label)[1]
    (weight * torch.randn(N, S)).sum().backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
