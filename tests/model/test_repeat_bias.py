"""Items that come again: found as a slow search finds them, and biased as a dense formula says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.model.history_windows import Events, Window, cut, pack
from cammsr_cli.model.losses import NOWHERE
from cammsr_cli.model.repeat_bias import RepeatBias, last_seen

HISTORIES = st.lists(
    st.lists(st.integers(0, 4), min_size=2, max_size=9), min_size=1, max_size=6
)  # of five items, so that most come again


def _cut(histories: list[list[int]]) -> Window:
    lengths = torch.tensor([len(one) for one in histories])
    items = torch.tensor([item for one in histories for item in one])
    end = lengths.cumsum(0)
    return cut(Events(items, torch.arange(len(items))), end - lengths, end)


def _slowly(histories: list[list[int]]) -> list[tuple[int, int, int]]:
    """Each history's positions one after another: position, item, age."""
    pairs, position = [], 0
    for history in histories:
        for past in range(1, len(history) + 1):
            for item in sorted(set(history[:past])):
                age = 1 + history[:past][::-1].index(item)
                pairs.append((position, item, age))
            position += 1
    return pairs


def _found(window: Window, target_BL: torch.Tensor | None = None) -> list[tuple[int, int, int]]:
    """The pairs that a bias is told of, of a target that is never met."""
    target_BL = torch.full_like(window.item_BL, 9) if target_BL is None else target_BL
    seen = last_seen(window, target_BL)
    kept_BLJ = RepeatBias(window.item_BL.shape[1]).kept(seen)
    assert set(kept_BLJ.unique().tolist()) <= {0.0, 1.0}
    found = []
    for number, at in enumerate(window.valid_BL.view(-1).nonzero().squeeze(1).tolist()):
        row, position = divmod(at, window.item_BL.shape[1])
        for event in range(position + 1):
            if kept_BLJ[row, position, event]:
                item = window.item_BL[row, event].item()
                found.append((number, item, position - event + 1))
    assert not kept_BLJ[~window.valid_BL].any()
    return sorted(found)


def test_last_seen_by_hand() -> None:
    window = _cut([[3, 0, 3], [0]])
    assert _found(window) == [
        (0, 3, 1), (1, 0, 1), (1, 3, 2), (2, 0, 2), (2, 3, 1), (3, 0, 1),
    ]  # fmt: skip
    target_BL = torch.tensor([[3, 3, 0], [3, 0, 0]])
    assert last_seen(window, target_BL).age_BL.tolist() == [[1, 2, 2], [0, 0, 0]]
    # Their targets are left out.
    assert _found(window, target_BL) == [(1, 0, 1), (2, 3, 1), (3, 0, 1)]


@given(HISTORIES)
@settings(max_examples=60, deadline=None)
def test_last_seen_is_what_a_slow_search_finds(histories) -> None:
    """Rows of one history each, with padding behind the shorter ones."""
    assert _found(_cut(histories)) == _slowly(histories)


@given(HISTORIES)
@settings(max_examples=60, deadline=None)
def test_in_rows_of_several_histories_each_has_its_own(histories) -> None:
    packed = pack(_cut(histories), 8, even=4)
    # The last event of each is a target alone; rows hold them in another order.
    ends = zip(packed.row_W.tolist(), packed.last_W.tolist(), histories, strict=True)
    ordered = [history for *_, history in sorted(ends)]
    pairs = _slowly([history[:-1] for history in ordered])
    assert _found(packed.window) == pairs
    # How long ago the target of each position was there.
    ages = {(position, item): age for position, item, age in pairs}
    targets = [item for history in ordered for item in history[1:]]
    seen = last_seen(packed.window, packed.target_BL)
    found = seen.age_BL.view(-1)[packed.place_M].tolist()
    assert found == [ages.get(pair, 0) for pair in enumerate(targets)]
    left = [pair for pair in pairs if pair[1] != targets[pair[0]]]
    assert _found(packed.window, packed.target_BL) == left


def test_of_an_empty_history_nothing_is_seen() -> None:
    window = cut(Events(torch.tensor([4]), torch.tensor([0])), torch.tensor([1]), torch.tensor([1]))
    assert _found(window) == []


# The bias.


def _bias(length: int) -> RepeatBias:
    bias = RepeatBias(length)
    with torch.no_grad():
        bias.weight_R.copy_(torch.arange(len(bias.weight_R)))
    return bias


@pytest.mark.parametrize(
    ("length", "buckets"), [(2, 2), (3, 2), (4, 3), (50, 6), (63, 6), (64, 7), (100, 7)]
)
def test_ages_up_to_the_longest_history_have_a_bucket_for_each_power_of_two(
    length, buckets
) -> None:
    bias = _bias(length)
    assert len(bias.weight_R) == buckets
    found = bias(torch.arange(1, length + 1))
    expected = [10.0 * (age.bit_length() - 1) for age in range(1, length + 1)]
    assert found.tolist() == expected
    assert expected[-1] == 10 * (buckets - 1)  # all are in use


def test_buckets_begin_at_powers_of_two() -> None:
    age = torch.tensor([[1, 2, 3], [4, 7, 8], [15, 16, 31], [32, 63, 64]])
    expected = torch.tensor([[0, 1, 1], [2, 2, 3], [3, 4, 4], [5, 5, 6]])
    assert torch.equal(_bias(100)(age), 10.0 * expected)


@pytest.mark.parametrize("age", [51, 63, 64, 1000, 2**31, 2**53 + 1, 2**62])
def test_what_was_longer_ago_counts_like_the_longest(age: int) -> None:
    assert _bias(50)(torch.tensor([age])).item() == 50


def test_an_untrained_bias_adds_nothing() -> None:
    assert not RepeatBias(50)(torch.arange(1, 99)).any()


def test_the_gradient_of_a_bucket_is_the_sum_over_its_ages() -> None:
    bias = RepeatBias(8)
    factor = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (bias(torch.tensor([1, 2, 3, 8, 99])) * factor).sum().backward()
    assert bias.weight_R.grad.tolist() == [10.0, 50.0, 0.0, 90.0]


# In the loss: two histories in rows of their own, of items with random targets.


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
def test_a_bias_has_the_gradient_of_biased_logits(sampled: bool) -> None:
    torch.manual_seed(0)
    histories = [[3, 1, 3, 3, 5, 1], [7, 7, 0, 7, 2, 2]]
    packed = pack(_cut(histories), 5)
    histories = [histories[at] for at in packed.row_W.argsort().tolist()]
    item_BL, target_BL = packed.window.item_BL, packed.target_BL
    query_BLV, target_NV = torch.randn(2, 5, 6), torch.randn(10, 6)
    kept = [0, 2, 3, 7, 9] if sampled else list(range(10))  # what targets are told from
    correction_N = torch.rand(10) * 2 if sampled else torch.zeros(10)
    told_N = torch.full((10,), NOWHERE)
    told_N[kept] = correction_N[kept]

    bias = RepeatBias(5)
    scale_K = torch.tensor([1.0, 0.5])
    with torch.no_grad():
        bias.weight_R.copy_(torch.tensor([-0.2, 0.13, 0.05]))
    weight_X = torch.rand(10)

    def dense(scale: float, weight_R: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cross-entropy, own probability and log-sum, biased by so much."""
        each, own_share, log_sum = [], [], []
        for row in range(2):
            for at in range(5):
                history, target = histories[row][: at + 1], histories[row][at + 1]
                logit = target_NV @ query_BLV[row, at] + told_N
                logit[target] = target_NV[target] @ query_BLV[row, at]
                for item in set(history):
                    age = 1 + history[::-1].index(item)
                    added = torch.zeros(10)
                    added[item] = 1.0
                    logit = logit + scale * 10 * weight_R[age.bit_length() - 1] * added
                each.append(logit.logsumexp(0) - logit[target])
                own_share.append(logit.softmax(0)[target])
                log_sum.append(logit.logsumexp(0))
        return torch.stack(each), torch.stack(own_share), torch.stack(log_sum)

    plain, own_share, log_sum = dense(0.0, bias.weight_R.detach())
    told = (torch.isin(item_BL, torch.tensor(kept)), correction_N[item_BL]) if sampled else ()
    seen = last_seen(packed.window, target_BL, *told)
    logit = query_BLV @ target_NV[item_BL].mT
    share = bias.shares(logit, log_sum.view(2, 5), bias.kept(seen), seen.correction_BJ)
    ours = bias.loss(
        torch.stack([bias.by_age(share)] * 2),
        torch.stack([own_share, own_share]),
        scale_K,
        seen.age_BL.view(-1),
        weight_X,
    )
    (our_gradient,) = torch.autograd.grad(ours.sum(), [bias.weight_R])
    weight_R = bias.weight_R.detach().clone().requires_grad_()
    theirs = torch.stack([(dense(float(s), weight_R)[0] - plain) @ weight_X for s in scale_K])
    (their_gradient,) = torch.autograd.grad(theirs.sum(), [weight_R])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-5)


def test_a_bias_that_rules_an_item_out_or_lets_it_win_stays_finite() -> None:
    bias = RepeatBias(4)
    share_KXR = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    with torch.no_grad():
        bias.weight_R.copy_(torch.tensor([0.1, -1e3, 50.0]))
    age_X = torch.tensor([0, 1, 0])
    loss = bias.loss(
        share_KXR, torch.full((1, 3), 1e-9), torch.ones(1), age_X, torch.full((3,), 1 / 3)
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    assert bias.weight_R.grad.isfinite().all()


def test_the_buckets_of_a_model_are_not_saved() -> None:
    assert list(RepeatBias(50).state_dict()) == ["weight_R"]
