"""Visitors who are not in the data, moments of the past, and who has no history at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_recommender import ITEMS, make_recommender

from cammsr_cli.data.splits import TRAIN
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.ranking import sessions
from cammsr_cli.ranking.item_filter import Choice
from cammsr_cli.ranking.recommend import Recommender


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return make_recommender(tmp_path_factory.mktemp("toy"))


def _events(recommender: Recommender, user: int) -> list[tuple[str, int]]:
    data = recommender.run.data
    own = slice(data.event_indptr[user], data.event_indptr[user + 1])
    pairs = zip(data.event_item[own].tolist(), data.event_time[own].tolist(), strict=True)
    return [(data.item_ids[item], time) for item, time in pairs]


def _as_history(events: list[tuple[str, int]]) -> str:
    return ",".join(f"{item}@{time}" for item, time in events)


@pytest.mark.parametrize("user", [0, 7, 31])
def test_a_visitor_with_a_user_s_history_gets_that_user_s_items(
    recommender: Recommender, user: int
) -> None:
    visitor = sessions.of_visitor(recommender.run.data, _as_history(_events(recommender, user)))
    (found,) = recommender.lists(visitor, 10)
    own = recommender.recommend(recommender.run.data.user_ids[user], 10)
    assert [one.item for one in found.items] == [one.item for one in own]
    assert [one.score for one in found.items] == pytest.approx([one.score for one in own])
    assert not found.popular


def test_sessions_of_a_file_are_as_those_users(recommender: Recommender, tmp_path: Path) -> None:
    file = tmp_path / "sessions.csv"
    rows = [
        f"visit-{user},{item},{time}"
        for user in (3, 9)
        for item, time in reversed(_events(recommender, user))
    ]
    file.write_text("session,item,time\n" + "\n".join(rows) + "\nvisit-3,gone,5\n")
    of_file = sessions.of_file(recommender.run.data, file)
    assert of_file.ids == ["visit-3", "visit-9"]
    assert of_file.passed_over == ["gone"]
    lists = recommender.lists(of_file, 5)
    for user, found in zip((3, 9), lists, strict=True):
        own = recommender.recommend(recommender.run.data.user_ids[user], 5)
        same_times = len({time for _, time in _events(recommender, user)}) < len(
            _events(recommender, user)
        )
        if not same_times:  # of events at one moment a file's order decides
            assert [one.item for one in found.items] == [one.item for one in own]
        assert len(found.items) == 5


def test_a_part_of_the_sessions_is_answered_as_in_the_whole(recommender: Recommender) -> None:
    every = recommender.of_users(np.arange(12))
    whole = recommender.answers_for(every, 6)
    part = recommender.answers_for(every.part(4, 9), 6)
    assert part.item_UK.tolist() == whole.item_UK[4:9].tolist()


def test_events_without_times_are_the_usual_time_apart(recommender: Recommender) -> None:
    data = recommender.run.data
    history = sessions.of_visitor(data, "i1, i2,i3").histories
    gap = sessions.usual_gap(data)
    assert gap == 60  # of gaps of 0, 60 and 86,400 seconds, .2, .4 and .4 of all
    assert history.time.tolist() == [0, gap, 2 * gap]
    assert history.item.tolist() == [1, 2, 3]


def test_times_decide_the_order_and_may_be_dates(recommender: Recommender) -> None:
    history = sessions.of_visitor(
        recommender.run.data, "i5@2026-11-28T12:00+01:00,i4@2026-11-28,i6@1795867200"
    ).histories
    assert history.item.tolist() == [4, 5, 6]
    assert history.time.tolist() == [1795824000, 1795863600, 1795867200]


@pytest.mark.parametrize(
    ("history", "error", "says"),
    [
        (" , ", UsageError, "names no item"),
        ("i1@noon", UsageError, "cannot read the time in 'i1@noon'"),
        ("i1@5,i2", UsageError, "some have none"),
        (
            "x,y,z",
            CammsrError,
            r"no item of the history is in .* \(3 in all, the first of them 'x'\)",
        ),
    ],
)
def test_a_history_that_cannot_be_read_is_told(
    recommender: Recommender, history: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        sessions.of_visitor(recommender.run.data, history)


def test_items_that_are_not_there_are_passed_over(recommender: Recommender) -> None:
    session = sessions.of_visitor(recommender.run.data, "i1,gone,i3,lost")
    assert session.passed_over == ["gone", "lost"]
    assert session.histories.item.tolist() == [1, 3]


def test_as_of_a_moment_what_came_later_is_not_known(recommender: Recommender) -> None:
    events = _events(recommender, 7)
    moment = events[len(events) // 2][1]
    earlier = [event for event in events if event[1] <= moment]
    assert 0 < len(earlier) < len(events)
    then = Recommender(recommender.run, choice=Choice(until=moment))
    visitor = sessions.of_visitor(recommender.run.data, _as_history(earlier))
    (as_visitor,) = recommender.lists(visitor, 8)
    assert [one.item for one in then.recommend("u7", 8)] == [one.item for one in as_visitor.items]


def test_who_has_no_history_gets_the_most_popular_items(recommender: Recommender) -> None:
    data = recommender.run.data
    before_all = Recommender(recommender.run, choice=Choice(until=-1))
    (nobody,) = before_all.lists(before_all.of_users(np.array([5])), 6)
    assert nobody.popular
    counts = np.bincount(data.event_item[data.event_part == TRAIN], minlength=ITEMS)
    assert [one.score for one in nobody.items] == sorted(counts.tolist(), reverse=True)[:6]
    for one in nobody.items:
        assert one.score == counts[data.item_ids.index(one.item)]
        assert sum(one.weights.values()) == pytest.approx(1, abs=1e-5)
    # Beside one who has a history nothing changes for that one.
    both = recommender.of_users(np.array([5, 8]))
    empty_first = replace(both, histories=replace(both.histories, indptr=_first_empty(both)))
    mixed = recommender.answers_for(empty_first, 6)
    assert mixed.popular_U.tolist() == [True, False]


def _first_empty(both: sessions.Sessions) -> np.ndarray:
    return np.array([0, 0, both.histories.indptr[2]])


def test_only_what_may_be_is_recommended(recommender: Recommender) -> None:
    run = recommender.run
    some = [f"i{at}" for at in range(0, ITEMS, 3)]
    chosen = Recommender(run, choice=Choice(items=[*some, "gone"], excluded=["i3", "i9"]))
    assert chosen.passed_over == ["gone"]
    for items in chosen.answers(np.arange(10), ITEMS).item_UK[:, :5]:
        assert {f"i{at}" for at in items} <= set(some) - {"i3", "i9"}
    plain = recommender.recommend("u4", ITEMS)
    expected = [one.item for one in plain if one.item in set(some) - {"i3", "i9"}]
    assert [one.item for one in chosen.recommend("u4", ITEMS)] == expected


def test_only_a_category_s_items_are_recommended(recommender: Recommender) -> None:
    found = Recommender(recommender.run, choice=Choice(categories=["C1"])).recommend("u4", ITEMS)
    assert found
    assert {name for one in found for name in one.categories} == {"c1"}


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (Choice(categories=["c9"]), "no category 'c9'"),
        (Choice(items=["gone"]), "none may be recommended"),
        (Choice(items=["i1"], excluded=["i1"]), "none may be recommended"),
    ],
)
def test_a_choice_that_leaves_nothing_is_told(
    recommender: Recommender, choice: Choice, says: str
) -> None:
    with pytest.raises(CammsrError, match=says):
        Recommender(recommender.run, choice=choice)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_than_some_of_one_category_and_otherwise_the_best(
    recommender: Recommender, most: int
) -> None:
    spread = Recommender(recommender.run, choice=Choice(per_category=most))
    for user in ("u1", "u22", "u45"):
        expected: list[str] = []
        counts: dict[str, int] = {}
        for one in recommender.recommend(user, ITEMS):
            (category,) = one.categories
            if counts.get(category, 0) < most and len(expected) < 10:
                counts[category] = counts.get(category, 0) + 1
                expected.append(one.item)
        assert 3 < len(expected) <= min(10, 4 * most)  # there are four categories
        assert [one.item for one in spread.recommend(user, 10)] == expected
