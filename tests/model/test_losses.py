"""The losses against their formulas: chunks, masks, missing labels and streams."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from cammsr_cli.model import device_kernels, losses


def _value_and_gradients(loss_of, *given) -> list[torch.Tensor]:
    leaves = [one.clone().requires_grad_() for one in given]
    loss = loss_of(*leaves)
    loss.backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


def _plainly(query, target, own, own_row, correction, weight) -> torch.Tensor:
    """-log softmax, position by position, of one's own among the others; those are corrected."""
    each = []
    for m, item in enumerate(own_row.tolist()):
        logits = target @ query[m] + correction
        others = torch.cat([logits[:item], logits[item + 1 :]])
        mine = own[m] @ query[m]
        each.append(torch.log(torch.exp(others).sum() + torch.exp(mine)) - mine)
    return torch.stack(each) @ weight


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("at_once", [1, 10, 30, 70, 229, 10**9])
def test_cross_entropy_in_chunks_is_the_plain_one_in_value_and_gradient(
    monkeypatch, at_once, corrected, weighted
) -> None:
    torch.manual_seed(0)
    query, target, own = torch.randn(23, 6), torch.randn(10, 6), torch.randn(23, 6)
    own_row = torch.randint(0, 10, (23,))
    weight = torch.rand(23) * (torch.rand(23) < 0.7) if weighted else None
    correction = torch.rand(10) * 3 if corrected else None
    if corrected:  # the last item has no part: those whose own it is have none among the others
        correction[9] = losses.NOWHERE
        assert (own_row == 9).any()
    monkeypatch.setitem(device_kernels.LOGITS_AT_ONCE, "cpu", at_once)
    ours = _value_and_gradients(
        lambda q, o, t: losses.sampled_cross_entropy(q, o, t, own_row, correction, weight).loss,
        query, own, target,
    )  # fmt: skip
    added = torch.zeros(10) if correction is None else correction
    weights = torch.full((23,), 1 / 23) if weight is None else weight
    plain = _value_and_gradients(
        lambda q, o, t: _plainly(q, t, o, own_row, added, weights), query, own, target
    )
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_told_beside_the_loss() -> None:
    torch.manual_seed(0)
    query, target, own = torch.randn(9, 4), torch.randn(7, 4), torch.randint(0, 7, (9,))
    told = losses.sampled_cross_entropy(query, target[own], target, own)
    logit = query @ target.T
    torch.testing.assert_close(told.log_sum_M, logit.logsumexp(1))
    torch.testing.assert_close(told.own_share_M, logit.softmax(1)[torch.arange(9), own])


def test_a_position_of_no_weight_moves_nothing() -> None:
    query, target = torch.randn(2, 4) * 1e3, torch.randn(7, 4) * 1e3
    own, weight = torch.tensor([1, 2]), torch.tensor([0.0, 0.0])
    _, *moved = _value_and_gradients(
        lambda q, t: losses.sampled_cross_entropy(q, t[own], t, own, None, weight).loss,
        query, target,
    )  # fmt: skip
    assert not any(one.any() for one in moved)


def test_cross_entropy_is_that_of_torch() -> None:
    torch.manual_seed(0)
    query, target, own = torch.randn(9, 4), torch.randn(7, 4), torch.randint(0, 7, (9,))
    ours = losses.catalogue_cross_entropy(query, target, own)
    torch.testing.assert_close(ours, functional.cross_entropy(query @ target.T, own))


def test_an_item_s_own_position_is_not_corrected_by_hand() -> None:
    # Scores log 1, log 2, log 5; the first item stands for 4 of its kind, the second, our own, for
    # 100, the third for 2: 2 / (4 * 1 + 2 + 2 * 5).
    target = torch.log(torch.tensor([[1.0], [2.0], [5.0]]))
    correction = torch.log(torch.tensor([4.0, 100.0, 2.0]))
    loss = losses.sampled_cross_entropy(
        torch.ones(1, 1), target[1:2], target, torch.tensor([1]), correction
    ).loss
    assert loss.item() == pytest.approx(-math.log(2 / 16))


def test_large_scores_neither_overflow_nor_vanish() -> None:
    query, target = torch.tensor([[300.0], [-300.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    ours = _value_and_gradients(
        lambda q, t: losses.catalogue_cross_entropy(q, t, torch.tensor([1, 2])), query, target
    )
    assert ours[0].item() == pytest.approx(150)  # 300 below the best one; the best one itself
    assert all(gradient.isfinite().all() for gradient in ours[1:])


def test_the_gradient_follows_what_the_loss_is_multiplied_with() -> None:
    torch.manual_seed(0)
    query, target, own = torch.randn(5, 4), torch.randn(7, 4), torch.arange(5)
    once, thrice = (
        _value_and_gradients(
            lambda q, t, by=by: by * losses.catalogue_cross_entropy(q, t, own), query, target
        )
        for by in (1.0, 3.0)
    )
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * a, b)


@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
def test_under_autocast_it_is_nearly_the_same_and_of_full_precision(corrected) -> None:
    torch.manual_seed(0)
    query, target = torch.randn(200, 16), torch.randn(50, 16)
    own = torch.randint(0, 50, (200,))
    correction = torch.rand(50) * 3 if corrected else None

    def loss_of(q: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return losses.sampled_cross_entropy(q, t[own], t, own, correction).loss

    exact = _value_and_gradients(loss_of, query, target)
    with torch.autocast("cpu", torch.bfloat16):
        rough = _value_and_gradients(loss_of, query, target)
    # A bfloat16 keeps 8 bits: each logit, of size about 4, may be off by 2**-8 of itself.
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32
        assert not torch.equal(a, b)  # or it would not have been computed in bfloat16
        off = (a - b).norm() / b.norm()
        assert off < 2**-6, off


def test_queries_of_half_precision_give_a_loss_of_full_precision() -> None:
    torch.manual_seed(0)
    query, target = torch.randn(9, 4).bfloat16(), torch.randn(7, 4).bfloat16()
    own = torch.randint(0, 7, (9,))
    loss = losses.catalogue_cross_entropy(query, target, own)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, functional.cross_entropy(query.float() @ target.float().T, own)
    )


class _Largest(TorchDispatchMode):
    """Notes the number of values in the largest tensor any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.numel())
        return made


@pytest.mark.parametrize(
    ("at_once", "allowed"),
    # 40 items: rows of 40 logits; at least one row there must be. From 16 rows on, a multiple of
    # 16: of 25 rows 16, of 100 rows 96; 500 are padded to 512, or cut in halves of 256, not 400.
    [(1, 40), (79, 40), (80, 80), (1000, 640), (4000, 3840), (16_000, 10_240), (10**6, 20_480)],
)
def test_no_more_logits_than_allowed_exist_at_once(monkeypatch, at_once, allowed) -> None:
    query, target = torch.randn(500, 1, requires_grad=True), torch.randn(40, 1, requires_grad=True)
    own, correction = torch.zeros(500).long(), torch.rand(40)
    monkeypatch.setitem(device_kernels.LOGITS_AT_ONCE, "cpu", at_once)
    with _Largest() as seen:
        losses.sampled_cross_entropy(query, target[own], target, own, correction).loss.backward()
    # Width 1, so that nothing but the logits and the 500 queries is large.
    assert seen.size == max(allowed, 500)


def test_a_loss_in_bfloat16_is_never_below_nought() -> None:
    torch.manual_seed(0)
    query = torch.randn(50, 16) * 5
    target = query[:20].clone()  # each position's own is by far the best
    with torch.autocast("cpu", torch.bfloat16):
        each = [
            losses.catalogue_cross_entropy(query[m : m + 1], target, torch.tensor([m])).item()
            for m in range(20)
        ]
    assert min(each) >= 0
    assert max(each) < 1


def test_cross_entropy_by_hand() -> None:
    # Scores log 1, log 2, log 5: the second item has probability 2/8.
    target = torch.log(torch.tensor([[1.0], [2.0], [5.0]]))
    loss = losses.catalogue_cross_entropy(torch.ones(1, 1), target, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(4))


def test_category_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[[1.0, 3.0]], [[1.0, 1.0]]]))  # two streams, one item
    present = torch.ones(1, 2).bool()
    # sigmoid(log 1) = 1/2, sigmoid(log 3) = 3/4
    one = losses.category_loss(logits, torch.tensor([[False, True]]), present)
    assert one.item() == pytest.approx(-math.log((1 / 2) ** 3 * 3 / 4) / 4)
    many = losses.category_loss(logits, torch.tensor([[True, True]]), present)
    assert many.item() == pytest.approx(one.item())
    other = losses.category_loss(logits, torch.tensor([[True, False]]), present)
    assert other.item() == pytest.approx(-math.log((1 / 2) ** 3 * 1 / 4) / 4)


def test_category_loss_leaves_out_unlabelled_items_and_missing_streams() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, requires_grad=True)
    labels = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()
    present = torch.tensor([[1, 1], [1, 1], [0, 1], [1, 0]]).bool()
    loss = losses.category_loss(logits, labels, present)
    each = functional.binary_cross_entropy_with_logits(
        torch.stack([logits[0, 0], logits[1, 0], logits[1, 2]]), labels[[0, 0, 2]].float()
    )
    torch.testing.assert_close(loss, each)
    loss.backward()
    counted = (logits.grad != 0).all(-1)
    assert torch.equal((logits.grad != 0).any(-1), counted)
    assert counted.tolist() == [[True, False, False, False], [True, False, True, False]]


def test_category_loss_is_nought_without_labels() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = losses.category_loss(logits, torch.zeros(3, 4).bool(), torch.ones(3, 2).bool())
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_swap_loss_by_hand() -> None:
    h = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    # Cosines are 1 with one's own state, 0 with the other's; temperature 1/2 doubles them.
    loss = losses.swap_loss(h, h, temperature=0.5)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_swap_loss_is_info_nce_of_the_first_among_the_second(temperature) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    ours = _value_and_gradients(lambda a, b: losses.swap_loss(a, b, temperature), a, b)

    def plainly(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        cosine = functional.cosine_similarity(a[:, None], b[None], dim=-1) / temperature
        return (cosine.logsumexp(1) - cosine.diag()).mean()

    for found, expected in zip(ours, _value_and_gradients(plainly, a, b), strict=True):
        torch.testing.assert_close(found, expected)


def test_swap_loss_does_not_ask_how_long_states_are() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    long = losses.swap_loss(100 * a, 0.01 * b, 0.2)
    torch.testing.assert_close(long, losses.swap_loss(a, b, 0.2))


def test_swap_loss_of_a_single_history_is_nought() -> None:
    h = torch.randn(1, 4, requires_grad=True)
    loss = losses.swap_loss(h, torch.randn(1, 4), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert h.grad.isfinite().all()
