"""Full ranking against a brute-force ranking in numpy, one user and one item at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cammsr_cli.data.splits import TEST, VALIDATION
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.history_windows import Events
from cammsr_cli.model.repeat_bias import RepeatBias
from cammsr_cli.ranking import full_ranking
from cammsr_cli.ranking.full_ranking import (
    EvaluationCases,
    evaluation_cases,
    item_tables,
    model_ranks,
    popularity_ranks,
    ranks,
    user_queries,
)
from cammsr_cli.ranking.seen import Histories

ITEMS = 15


def _brute_force(scores, histories, targets, exclude_seen: bool, repeats=None) -> list[int]:
    """Histories are lists, the last event at their end; `repeats` biases what is in them."""
    found = []
    for score, history, target in zip(scores, histories, targets, strict=True):
        biased = list(score)
        if repeats is not None and not exclude_seen:
            for item in set(history):
                age = history[::-1].index(item) + 1
                biased[item] += repeats(torch.tensor(age)).item()
        rank = 1
        for item, value in enumerate(biased):
            if item == target or (exclude_seen and item in history):
                continue
            if not value < biased[target]:  # ties and what is not a number count against us
                rank += 1
        found.append(rank)
    return found


def _nothing(users: np.ndarray) -> tuple[np.ndarray, ...]:
    """What users rejected."""
    return (np.zeros(0, np.int64),) * 3


def _log(seed: int, users: int = 40) -> SimpleNamespace:
    """Random histories as a data set has them: last event test, the one before validation."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 9, users)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    part = np.zeros(indptr[-1], dtype=np.uint8)
    for u in range(users):
        if lengths[u] >= 3:
            part[indptr[u + 1] - 1], part[indptr[u + 1] - 2] = TEST, VALIDATION
    return SimpleNamespace(
        event_indptr=indptr,
        event_item=generator.integers(0, ITEMS, indptr[-1]).astype(np.int32),
        event_time=np.sort(generator.integers(0, 10**6, indptr[-1])),
        event_part=part,
        item_ids=[str(i) for i in range(ITEMS)],
        rejected=_nothing,
    )


def _events(log: SimpleNamespace) -> Events:
    return Events(torch.from_numpy(log.event_item).long(), torch.from_numpy(log.event_time))


def test_questions_ask_for_the_held_out_event_after_all_before_it() -> None:
    log = SimpleNamespace(
        event_indptr=np.array([0, 4, 4, 5, 8]),
        event_part=np.array([0, 0, 1, 2, 2, 0, 1, 2], dtype=np.uint8),
        event_item=np.array([9, 8, 7, 6, 5, 4, 3, 2], dtype=np.int32),
        rejected=_nothing,
    )
    test = evaluation_cases(log, TEST)
    # User 1 has no events; user 2 has a test event and no history, and is not asked about.
    assert test.user_U.tolist() == [0, 3]
    assert test.start_U.tolist() == [0, 5]
    assert test.end_U.tolist() == [3, 7]
    assert test.item_U.tolist() == [6, 2]
    validation = evaluation_cases(log, VALIDATION)
    assert validation.end_U.tolist() == [2, 6]
    assert validation.item_U.tolist() == [7, 3]


def _histories(log: SimpleNamespace, asked: EvaluationCases) -> list[list[int]]:
    return [log.event_item[s:e].tolist() for s, e in zip(asked.start_U, asked.end_U, strict=True)]


def _repeats() -> RepeatBias:
    """Biases that make many ties, and that may take an item to either end."""
    repeats = RepeatBias(4)
    with torch.no_grad():
        repeats.weight_R.copy_(torch.tensor([0.1, -0.2, 0.4]))
    return repeats


@pytest.mark.parametrize("seen", ["hidden", "kept", "biased"])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_those_of_brute_force(monkeypatch, seed: int, seen: str) -> None:
    monkeypatch.setattr(full_ranking, "ROWS_AT_LEAST", 7)  # several chunks, the last one short
    monkeypatch.setattr(full_ranking, "SCORES_AT_ONCE", {"cpu": 1})
    log = _log(seed)
    asked = evaluation_cases(log, TEST)
    # Few different scores, so that there are many ties.
    table = torch.randint(0, 5, (len(asked.item_U), ITEMS), generator=_seeded(seed)).float()
    exclude, repeats = seen == "hidden", _repeats() if seen == "biased" else None
    ours = ranks(table, torch.eye(ITEMS), Histories(_events(log), exclude, repeats), asked)
    histories = _histories(log, asked)
    assert ours.dtype == np.int64
    expected = _brute_force(table.tolist(), histories, asked.item_U, exclude, repeats)
    assert ours.tolist() == expected
    assert any(t in h for t, h in zip(asked.item_U, histories, strict=True))  # repeats are there


@pytest.mark.parametrize("seen", ["hidden", "kept", "biased"])
def test_items_that_nothing_is_known_of_rank_last_whatever_their_bias(seen: str) -> None:
    log = _log(2)
    asked = evaluation_cases(log, TEST)
    unknown = torch.tensor([3, 4, 9])
    table = torch.randn(len(asked.item_U), ITEMS, generator=_seeded(0))
    table[:, unknown] += 50
    repeats = _repeats() if seen == "biased" else None
    history = Histories(_events(log), seen == "hidden", repeats)
    ours = ranks(table, torch.eye(ITEMS), history, asked, unknown)
    table[:, unknown] = -1e30
    histories = _histories(log, asked)
    expected = _brute_force(table.tolist(), histories, asked.item_U, seen == "hidden", repeats)
    assert ours.tolist() == expected
    left = [
        ITEMS - len({*history} - {target}) if seen == "hidden" else ITEMS
        for history, target in zip(histories, asked.item_U, strict=True)
    ]
    last = np.isin(asked.item_U, unknown)
    assert 0 < last.sum() < len(last)
    assert (ours[last] == np.array(left)[last]).all()  # of those that are ranked at all


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _one(scores: list[float], history: list[int], target: int, exclude_seen=True) -> int:
    items = torch.tensor([*history, target])
    asked = EvaluationCases(
        np.array([0]), np.array([0]), np.array([len(history)]), np.array([target], dtype=np.int64)
    )
    events = Events(items, torch.arange(len(items)))
    target_NV = torch.tensor(scores, dtype=torch.float32)[:, None]
    return int(ranks(torch.ones(1, 1), target_NV, Histories(events, exclude_seen), asked)[0])


def test_ranks_by_hand() -> None:
    assert _one([5, 4, 3, 2], history=[0], target=2) == 2
    assert _one([5, 4, 3, 2], history=[0], target=2, exclude_seen=False) == 3
    assert _one([1, 1, 1, 1], history=[3], target=0) == 3  # ties count against us
    assert _one([5, 4, 3, 2], history=[2, 0], target=2) == 2  # a repeat is never left out
    assert _one([0, 0, 9, 0], history=[2], target=2) == 1


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_what_a_user_rejected_before_is_left_out(exclude_seen: bool, repeats: bool) -> None:
    """User 0 had 4, 1 and then 0; user 1 had 4 and then 0, each with two rejections."""
    log = SimpleNamespace(
        event_indptr=np.array([0, 3, 5]),
        event_item=np.array([4, 1, 0, 4, 0], dtype=np.int32),
        event_part=np.array([0, 0, 2, 0, 2], dtype=np.uint8),
        # To 2 after the first event and to 3 after all; to 2 and 3 before the last.
        rejected=lambda _: (np.array([0, 0, 1, 1]), np.array([2, 3, 2, 3]), np.array([1, 3, 1, 1])),
    )
    asked = evaluation_cases(log, TEST)
    events = Events(torch.from_numpy(log.event_item).long(), torch.arange(5))
    score_NV = torch.tensor([1.0, 0, 9, 8, 0.5])[:, None]
    bias = _repeats() if repeats else None
    for some, expected in ((asked, [2, 1]), (asked.take(slice(1, 2)), [1])):
        history = Histories(events, exclude_seen, bias, some.rejections)
        found = ranks(torch.ones(len(expected), 1), score_NV, history, some)
        if not exclude_seen and repeats:  # a bias may raise what they had
            assert (found <= np.array(expected) + 2).all()
        else:
            assert found.tolist() == expected
    assert ranks(torch.ones(2, 1), score_NV, Histories(events, exclude_seen), asked).tolist() == [
        3,
        3,
    ]


def test_an_unknown_item_ties_with_the_unknown_and_not_with_the_seen() -> None:
    """All but four of a thousand items are seen; the one to be found is new, and so is another."""
    seen = list(range(996))
    asked = EvaluationCases(np.array([0]), np.array([0]), np.array([996]), np.array([999]))
    events = Events(torch.tensor([*seen, 999]), torch.arange(997))
    scores = torch.randn(1000, 1, generator=_seeded(0))
    unknown = torch.tensor([998, 999])
    ours = ranks(torch.ones(1, 1), scores, Histories(events, True), asked, unknown)
    assert ours.tolist() == [4]


def test_scores_that_are_not_numbers_rank_last() -> None:
    nan = float("nan")
    assert _one([1, 2, nan, 0], history=[3], target=2) == 3
    assert _one([nan, nan, nan, nan], history=[3], target=2) == 3
    # Others that are not numbers count against us too.
    assert _one([nan, 2, 5, 0], history=[3], target=2) == 2


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_no_one_to_ask_gives_no_ranks(exclude_seen: bool) -> None:
    none = np.zeros(0, dtype=np.int64)
    history = Histories(Events(torch.tensor([1]), torch.tensor([0])), exclude_seen, _repeats())
    asked = EvaluationCases(none, none, none, none)
    assert ranks(torch.zeros(0, 2), torch.zeros(3, 2), history, asked).shape == (0,)


def test_popularity_counts_training_events_only() -> None:
    # Item 1 is popular in training; item 0 only in what is held out.
    log = SimpleNamespace(
        event_indptr=np.array([0, 3, 6]),
        event_item=np.array([1, 0, 0, 1, 2, 0], dtype=np.int32),
        event_part=np.array([0, 1, 2, 0, 0, 2], dtype=np.uint8),
        item_ids=["a", "b", "c", "d"],
        rejected=_nothing,
    )
    events = Events(torch.from_numpy(log.event_item).long(), torch.arange(6))
    found = popularity_ranks(log, events, evaluation_cases(log, TEST), exclude_seen=False)
    # Counts: a 0, b 2, c 1, d 0; target a ties with d.
    assert found.tolist() == [4, 4]


def _model() -> tuple[Cammsr, Catalogue]:
    torch.manual_seed(0)
    model = Cammsr(ITEMS, {"text": 4}, 0, width=16, length=3, layers=1)
    assert model.repeats is not None
    with torch.no_grad():
        model.repeats.weight_R.copy_(torch.tensor([-0.05, 0.05]))
    present = torch.ones(ITEMS, dtype=torch.bool)
    present[3] = False
    catalogue = Catalogue(torch.arange(ITEMS), {"text": torch.randn(ITEMS, 4)}, {"text": present})
    return model.eval(), catalogue


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_model_ranks_are_those_of_its_scores_one_user_at_a_time(exclude_seen: bool) -> None:
    model, catalogue = _model()
    log = _log(0)
    asked, events = evaluation_cases(log, TEST), _events(log)
    tables = item_tables(model, catalogue)
    scores = []
    for start, end in zip(asked.start_U, asked.end_U, strict=True):
        query = user_queries(model, tables, events, torch.tensor([start]), torch.tensor([end]))
        scores.append((query @ tables.target_NV.T)[0].tolist())
    ours = model_ranks(model, catalogue, events, asked, exclude_seen)
    histories = _histories(log, asked)
    expected = np.array(_brute_force(scores, histories, asked.item_U, exclude_seen, model.repeats))
    # One user alone and many in a batch may round differently: the last digit of a score.
    assert (ours != expected).mean() < 0.1
    assert np.abs(ours - expected).max() <= 1
    if not exclude_seen:  # the bias matters
        plain = _brute_force(scores, histories, asked.item_U, exclude_seen)
        assert (ours != plain).mean() > 0.3


def test_users_with_short_and_long_histories_are_asked_right_in_one_batch() -> None:
    model, catalogue = _model()
    events = Events(torch.tensor([4, 1, 2, 3, 5, 6, 7, 9]), torch.arange(8) * 50)
    tables = item_tables(model, catalogue)
    # One event; two; six, of which the model reads the last three.
    start, end = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 8])
    together = user_queries(model, tables, events, start, end)
    for row in range(3):
        alone = user_queries(model, tables, events, start[row : row + 1], end[row : row + 1])
        torch.testing.assert_close(together[row], alone[0])
    last_three = user_queries(model, tables, events, torch.tensor([5]), torch.tensor([8]))
    torch.testing.assert_close(together[2], last_three[0])
    assert not torch.allclose(together[0], together[1], atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 4, 7, 10**6])
def test_queries_do_not_depend_on_how_users_are_batched(monkeypatch, at_once: int) -> None:
    model, catalogue = _model()
    tables, log = item_tables(model, catalogue), _log(1)
    events, bounds = _events(log), torch.from_numpy(log.event_indptr)
    kept = bounds[1:] > bounds[:-1]
    start, end = bounds[:-1][kept], bounds[1:][kept]
    expected = [
        user_queries(model, tables, events, s[None], e[None])[0]
        for s, e in zip(start, end, strict=True)
    ]
    monkeypatch.setattr(full_ranking, "POSITIONS_AT_ONCE", {"cpu": at_once})
    ours = user_queries(model, tables, events, start, end)
    torch.testing.assert_close(ours, torch.stack(expected))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("experts", [0, 2])
def test_tables_made_part_by_part_are_those_made_at_once(
    monkeypatch, experts: int, fused: bool
) -> None:
    torch.manual_seed(0)
    model = Cammsr(ITEMS, {"text": 4, "image": 3}, 2, width=16, experts=experts, fused=fused).eval()
    features = {"text": torch.randn(ITEMS, 4), "image": torch.randn(ITEMS, 3)}
    present = {name: torch.rand(ITEMS) < 0.7 for name in features}
    labels = torch.rand(ITEMS, 2) < 0.5
    known = torch.arange(ITEMS) - 2  # two items are new
    catalogue = Catalogue(known.clamp(min=-1), features, present, labels)
    model.items.measure(catalogue)
    catalogue = model.items.beside_neighbours(catalogue)
    with torch.inference_mode():
        whole = model.item_tables(catalogue)
    monkeypatch.setattr(full_ranking, "ITEMS_AT_ONCE", 4)
    ours = item_tables(model, catalogue)
    torch.testing.assert_close(ours.input_NX, whole.input_NX)
    torch.testing.assert_close(ours.target_NV, whole.target_NV)
    torch.testing.assert_close(ours.guide_NT, whole.guide_NT)
    assert torch.equal(ours.present_NS, whole.present_NS)
    assert torch.equal(ours.present_NT, whole.present_NT)
    assert whole.category_TNC.shape == (2 if fused else 3, ITEMS, 2)
    assert ours.category_TNC.shape == (2 if fused else 3, ITEMS, 0)  # they would fill memory
