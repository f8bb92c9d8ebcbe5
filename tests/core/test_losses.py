"""The losses against their formulas: chunks, masks, missing labels, collapse."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from cammsr_cli.core import losses


@pytest.mark.parametrize("at_once", [1, 30, 70, 10**9])
def test_chunked_cross_entropy_is_the_plain_one_in_value_and_gradient(monkeypatch, at_once) -> None:
    torch.manual_seed(0)
    query = torch.randn(23, 6, dtype=torch.float64)
    target = torch.randn(10, 6, dtype=torch.float64)
    item = torch.randint(0, 10, (23,))
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)

    def run(loss_of):
        leaves = [query.clone().requires_grad_(), target.clone().requires_grad_()]
        loss = loss_of(*leaves)
        loss.backward()
        return loss.detach(), leaves[0].grad, leaves[1].grad

    ours = run(lambda q, t: losses.catalogue_cross_entropy(q, t, item))
    plain = run(lambda q, t: functional.cross_entropy(q @ t.T, item))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_no_more_logits_than_allowed_exist_at_once(monkeypatch) -> None:
    sizes = []
    real = losses._summed_cross_entropy
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 35)
    monkeypatch.setattr(
        losses,
        "_summed_cross_entropy",
        lambda q, t, i: sizes.append(len(q) * len(t)) or real(q, t, i),
    )
    losses.catalogue_cross_entropy(torch.randn(8, 2), torch.randn(10, 2), torch.zeros(8).long())
    assert sizes == [30, 30, 20]


def test_cross_entropy_by_hand() -> None:
    # Scores log 1, log 2, log 5: the second item has probability 2/8.
    target = torch.log(torch.tensor([[1.0], [2.0], [5.0]]))
    loss = losses.catalogue_cross_entropy(torch.ones(1, 1), target, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(4))


def test_category_loss_leaves_out_unlabelled_items() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    for multi_label in (False, True):
        logits.grad = None
        loss = losses.category_loss(logits, labels, multi_label)
        torch.testing.assert_close(
            loss, losses.category_loss(logits[[0, 2]], labels[[0, 2]], multi_label)
        )
        loss.backward()
        assert (logits.grad[[1, 3]] == 0).all()
        assert (logits.grad[[0, 2]] != 0).all()


def test_category_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 3.0]]))
    one = losses.category_loss(logits, torch.tensor([[0.0, 1.0]]), multi_label=False)
    assert one.item() == pytest.approx(-math.log(3 / 4))
    many = losses.category_loss(logits, torch.tensor([[1.0, 1.0]]), multi_label=True)
    # sigmoid(log 1) = 1/2, sigmoid(log 3) = 3/4
    assert many.item() == pytest.approx(-(math.log(1 / 2) + math.log(3 / 4)) / 2)


def test_category_loss_is_nought_without_labels_or_categories() -> None:
    assert losses.category_loss(torch.randn(3, 2), torch.zeros(3, 2), True).item() == 0
    assert losses.category_loss(torch.randn(3, 0), torch.zeros(3, 0), False).item() == 0


def test_swap_loss_by_hand() -> None:
    h = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    # Cosines are 1 with one's own view, 0 with the other's; temperature 1/2 doubles them.
    loss = losses.swap_loss(h, h, torch.tensor([1, 2]), temperature=0.5)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)))


def test_swap_loss_is_info_nce_both_ways() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    ours = losses.swap_loss(a, b, torch.arange(5), 0.2)
    cosine = functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.2
    expected = -(cosine.diag() - cosine.logsumexp(1) + cosine.diag() - cosine.logsumexp(0)).mean()
    torch.testing.assert_close(ours, expected / 2)


def test_swap_loss_ignores_negatives_with_the_same_target() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    same = torch.tensor([7, 7, 9])
    a.requires_grad_()
    loss = losses.swap_loss(a, b, same, 0.2)
    cosine = functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.2
    kept = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]]).bool()
    cosine = cosine.masked_fill(~kept, -1e9)
    expected = -(cosine.diag() - cosine.logsumexp(1) + cosine.diag() - cosine.logsumexp(0)).mean()
    torch.testing.assert_close(loss, expected / 2)
    loss.backward()
    assert a.grad.isfinite().all()


def test_swap_loss_with_nothing_to_tell_apart_is_nought() -> None:
    h = torch.randn(3, 4, requires_grad=True)
    loss = losses.swap_loss(h, torch.randn(3, 4), torch.tensor([5, 5, 5]), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert h.grad.isfinite().all()
    assert losses.swap_loss(h[:1], h[:1], torch.tensor([1]), 0.2).item() == 0


def test_balance_loss_is_nought_when_even_and_e_minus_1_at_collapse() -> None:
    even = torch.full((6, 2, 4), 0.25)
    assert losses.balance_loss(even).item() == pytest.approx(0, abs=1e-6)
    collapsed = torch.zeros(6, 2, 4)
    collapsed[..., 1] = 1
    assert losses.balance_loss(collapsed).item() == pytest.approx(3)
    # Each item may choose sharply, as long as all together are even.
    sharp = torch.eye(4).repeat(2, 1).unsqueeze(1)
    assert losses.balance_loss(sharp).item() == pytest.approx(0, abs=1e-6)
