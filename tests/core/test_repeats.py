"""Items that come again: found as a slow search finds them, and biased as a dense formula says."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.core import losses
from cammsr_cli.core.losses import Bias
from cammsr_cli.core.repeats import RepeatBias, seen_before
from cammsr_cli.core.windows import Events, Window, cut, pack

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


def _found(window: Window) -> list[tuple[int, int, int]]:
    pairs = seen_before(window)
    assert all(one.dtype == torch.int64 for one in pairs)
    assert all(a <= b for a, b in pairwise(pairs.position_P.tolist()))
    found = sorted(zip(*(one.tolist() for one in pairs), strict=True))
    assert len({pair[:2] for pair in found}) == len(found)  # each item once a position
    return found


def test_seen_before_by_hand() -> None:
    pairs = seen_before(_cut([[3, 0, 3], [0]]))
    assert sorted(zip(*(one.tolist() for one in pairs), strict=True)) == [
        (0, 3, 1), (1, 0, 1), (1, 3, 2), (2, 0, 2), (2, 3, 1), (3, 0, 1),
    ]  # fmt: skip


@given(HISTORIES)
@settings(max_examples=100, deadline=None)
def test_seen_before_is_what_a_slow_search_finds(histories) -> None:
    """Rows of one history each, with padding behind the shorter ones."""
    assert _found(_cut(histories)) == _slowly(histories)


@given(HISTORIES)
@settings(max_examples=100, deadline=None)
def test_in_rows_of_several_histories_each_has_its_own(histories) -> None:
    packed = pack(_cut(histories), 8, even=4)
    assert packed.window.within_BL is not None
    # The last event of each is a target alone; rows hold them in another order.
    ends = zip(packed.row_W.tolist(), packed.last_W.tolist(), histories, strict=True)
    assert _found(packed.window) == _slowly([history[:-1] for *_, history in sorted(ends)])


def test_of_an_empty_history_nothing_is_seen() -> None:
    window = cut(Events(torch.tensor([4]), torch.tensor([0])), torch.tensor([1]), torch.tensor([1]))
    assert all(len(one) == 0 for one in seen_before(window))


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


# In the cross-entropy. M positions, N items, V their width.

M, N, V = 23, 10, 6


def _pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """About a third of all pairs, of some positions none, of others many."""
    torch.manual_seed(1)
    there = torch.rand(M, N) < torch.linspace(0, 0.7, M)[torch.randperm(M), None]
    row_P, item_P = there.nonzero(as_tuple=True)
    return row_P, item_P


def _given() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(M, V), torch.randn(N, V), torch.randn(M, V)


def _value_and_gradients(loss_of, *given) -> list[torch.Tensor]:
    leaves = [one.clone().requires_grad_() for one in given]
    loss = loss_of(*leaves)
    loss.backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


def _same(ours: list[torch.Tensor], dense: list[torch.Tensor]) -> None:
    for a, b in zip(ours, dense, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("at_once", [1, 10, 30, 70, 229, 10**9])
def test_biased_cross_entropy_in_chunks_is_the_dense_one(monkeypatch, at_once, corrected) -> None:
    """Against float64: the value and the bias's gradients; all others are those without a bias.

    The own item may be among the others, or not.
    """
    monkeypatch.setitem(losses.LOGITS_AT_ONCE, "cpu", at_once)
    query, target, own = _given()
    own_M = torch.randint(-1, N, (M,))
    row_P, item_P = _pairs()
    assert (own_M[row_P] == item_P).any()  # some own items have been there before
    assert (own_M == -1).any()
    value, own_bias = torch.randn(len(row_P)) * 3, torch.randn(M) * 3
    correction = torch.rand(N) * 3 if corrected else None

    def ours(q, t, o, value, own_bias):
        bias = Bias(row_P, item_P, value, own_bias)
        return losses.sampled_cross_entropy(q, o, t, own_M, correction, bias)

    def dense(q, t, o, value, own_bias):
        added = torch.zeros(N).double() if correction is None else correction.double()
        logit = (q @ t.T + added).index_put((row_P, item_P), value, accumulate=True)
        logit = logit.masked_fill(torch.arange(N) == own_M[:, None], float("-inf"))
        mine = (q * o).sum(1) + own_bias
        return (torch.cat([logit, mine[:, None]], dim=1).logsumexp(1) - mine).mean()

    given = (query, target, own, value, own_bias)
    found = _value_and_gradients(ours, *given)
    biased = _value_and_gradients(dense, *(one.double() for one in given))
    nothing = torch.zeros(len(row_P)).double(), torch.zeros(M).double()
    plain = _value_and_gradients(dense, *(one.double() for one in given[:3]), *nothing)
    _same(found, [biased[0], *plain[1:4], *biased[4:]])


@pytest.mark.parametrize("at_once", [1, 70, 10**9])
def test_it_is_that_of_torch_where_an_own_item_s_bias_counts_as_the_others(
    monkeypatch, at_once
) -> None:
    """Over the whole catalogue: softmax cross-entropy of scores and biases, in any order."""
    monkeypatch.setitem(losses.LOGITS_AT_ONCE, "cpu", at_once)
    query, target, _ = _given()
    own_M = torch.randint(0, N, (M,))
    row_P, item_P = _pairs()
    own_P = (item_P == own_M[row_P]).nonzero().squeeze(1)
    assert 0 < len(own_P) < M

    def ours(value):
        own_bias_M = torch.zeros(M).index_add(0, row_P[own_P], value[own_P])
        bias = Bias(row_P, item_P, value, own_bias_M)
        return losses.sampled_cross_entropy(query, target[own_M], target, own_M, bias=bias)

    def dense(value):
        score = (query @ target.T).double()
        score = score.index_put((row_P, item_P), value, accumulate=True)
        return torch.nn.functional.cross_entropy(score, own_M)

    value = torch.randn(len(row_P)) * 3
    _same(_value_and_gradients(ours, value), _value_and_gradients(dense, value.double()))


@pytest.mark.parametrize("at_once", [20, 10**9])
def test_the_sum_has_the_gradients_of_its_differences(monkeypatch, at_once) -> None:
    monkeypatch.setitem(losses.LOGITS_AT_ONCE, "cpu", at_once)
    torch.manual_seed(0)
    own_M = torch.tensor([2, -1, 0, 4])
    row_P, item_P = torch.tensor([0, 0, 2, 3, 3]), torch.tensor([1, 2, 3, 0, 4])
    leaves = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 3), (4,), (5, 3))
    ]

    def total(query, own_logit, target):
        return losses._SummedLogSumExp.apply(query, own_logit, target, own_M, None, row_P, item_P)[
            0
        ]

    assert torch.autograd.gradcheck(total, leaves)


def test_a_bias_of_no_pairs_changes_nothing() -> None:
    query, target, own = _given()
    own_M, none_P = torch.randint(-1, N, (M,)), torch.zeros(0).long()

    def loss_of(bias):
        return lambda q, t, o: losses.sampled_cross_entropy(q, o, t, own_M, bias=bias)

    biased = loss_of(Bias(none_P, none_P, torch.zeros(0), torch.zeros(M)))
    for a, b in zip(
        _value_and_gradients(biased, query, target, own),
        _value_and_gradients(loss_of(None), query, target, own),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_what_a_bias_says_of_an_own_item_is_left_out_with_it() -> None:
    query, target, own = _given()
    own_M, row_P = torch.arange(M) % N, torch.arange(M)
    value = torch.randn(M, requires_grad=True)
    bias = Bias(row_P, own_M, value, torch.zeros(M))
    loss = losses.sampled_cross_entropy(query, own, target, own_M, bias=bias)
    loss.backward()
    plain = losses.sampled_cross_entropy(query, own, target, own_M)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(value.grad, torch.zeros(M))


def test_a_bias_that_rules_an_item_out_or_lets_it_win_stays_finite() -> None:
    query, target, own = _given()
    own_M = torch.zeros(M).long()
    row_P, item_P = torch.arange(2), torch.tensor([3, 4])
    value = torch.tensor([-1e4, 1e4], requires_grad=True)
    bias = Bias(row_P, item_P, value, torch.zeros(M))
    loss = losses.sampled_cross_entropy(query, own, target, own_M, bias=bias)
    loss.backward()
    assert loss.item() == pytest.approx(1e4 / M, rel=0.01)
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 1 / M]))


def test_a_bias_that_rules_nearly_all_out_stays_finite() -> None:
    query, target = torch.zeros(1, 2), torch.zeros(3, 2)
    value, own = torch.tensor([-1e4, -1e4], requires_grad=True), torch.tensor([-1e4])
    bias = Bias(torch.tensor([0, 0]), torch.tensor([1, 2]), value, own)
    loss = losses.sampled_cross_entropy(query, target[:1], target, torch.tensor([0]), bias=bias)
    loss.backward()
    assert loss.isfinite()
    assert value.grad.isfinite().all()


def test_under_autocast_it_is_nearly_the_same_and_of_full_precision() -> None:
    torch.manual_seed(0)
    query, target = torch.randn(200, 16), torch.randn(50, 16)
    own = torch.randint(0, 50, (200,))
    row_P, item_P = (torch.rand(200, 50) < 0.2).nonzero(as_tuple=True)
    value, own_bias = torch.randn(len(row_P)), torch.randn(200)

    def loss_of(q, t, value, own_bias):
        bias = Bias(row_P, item_P, value, own_bias)
        return losses.sampled_cross_entropy(q, t[own], t, own, bias=bias)

    exact = _value_and_gradients(loss_of, query, target, value, own_bias)
    with torch.autocast("cpu", torch.bfloat16):
        rough = _value_and_gradients(loss_of, query, target, value, own_bias)
    # A bfloat16 keeps 8 bits: each logit, of size about 4, may be off by 2**-8 of itself.
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32
        assert not torch.equal(a, b)  # or it would not have been computed in bfloat16
        off = (a - b).norm() / b.norm()
        assert off < 2**-6, off
