"""A peer's ranks are counted as ours are."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers.scoring import in_our_order, recent_items, seen_items, target_ranks
from benchmarks.peers.split import TEST, VALIDATION, Split
from cammsr_cli.data.splits import leave_one_out

ITEMS = 12


@pytest.fixture
def split() -> Split:
    """40 users with histories of 3 to 9 events, repeats among them."""
    generator = np.random.default_rng(0)
    indptr = np.concatenate([[0], np.cumsum(generator.integers(3, 10, 40))])
    item = generator.integers(0, ITEMS, indptr[-1]).astype(np.int32)
    return Split(indptr, item, leave_one_out(indptr), ITEMS, "")


@pytest.mark.parametrize("part", [VALIDATION, TEST])
def test_ranks_by_hand(split: Split, part: int) -> None:
    """Every user one by one, with many ties among the scores."""
    score_UN = np.random.default_rng(1).integers(0, 4, (split.users, ITEMS)).astype(np.float32)
    expected = []
    for user, target in zip(*split.asked(part), strict=True):
        seen = set(split.item_E[split.indptr_U[user] : split.history_end(part)[user]].tolist())
        others = set(range(ITEMS)) - seen - {int(target)}
        expected.append(1 + sum(score_UN[user, i] >= score_UN[user, target] for i in others))

    def score(user_B: NDArray[np.int64], _: int) -> NDArray[np.float32]:
        return score_UN[user_B]

    assert target_ranks(split, part, score).tolist() == expected


def test_an_unknown_item_ranks_below_all_that_can_be_recommended(split: Split) -> None:
    def score(user_B: NDArray[np.int64], _: int) -> NDArray[np.float32]:
        return np.full((len(user_B), ITEMS), -np.inf, dtype=np.float32)

    user_U, target_U = split.asked(TEST)
    unseen_U = np.full(split.users, ITEMS)
    for user in range(split.users):
        history = split.item_E[split.indptr_U[user] : split.history_end(TEST)[user]]
        unseen_U[user] = len(set(range(ITEMS)) - set(history.tolist()) | {int(target_U[user])})
    np.testing.assert_array_equal(target_ranks(split, TEST, score), unseen_U[user_U])


def test_recent_items_are_padded_and_cut_and_known(split: Split) -> None:
    id_N = np.arange(1, ITEMS + 1)
    id_N[4] = 0
    users = np.arange(split.users)
    for padding in ("left", "right"):
        id_BL, length_B = recent_items(split, users, TEST, id_N, 3, padding)
        for user in users:
            history = split.item_E[split.indptr_U[user] : split.history_end(TEST)[user]]
            known = [int(item) + 1 for item in history if item != 4][-3:]
            pad = [0] * (3 - len(known))
            assert id_BL[user].tolist() == (pad + known if padding == "left" else known + pad)
            assert length_B[user] == len(known)


def test_seen_items(split: Split) -> None:
    row, item = seen_items(split, np.array([5, 2]), TEST)
    for at, user in enumerate([5, 2]):
        history = split.item_E[split.indptr_U[user] : split.history_end(TEST)[user]]
        assert item[row == at].tolist() == history.tolist()


def test_scores_come_back_in_our_order() -> None:
    peer_score = np.array([[9, 1, 2]], dtype=np.float32)
    assert in_our_order(peer_score, np.array([2, 0, 1])).tolist() == [[2.0, -np.inf, 1.0]]
