"""The recommender: arrays for many users are what one user at a time is told, and read no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_recommender import ITEMS, USERS, make_recommender

from cammsr_cli.config import resolve
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.ranking import recommend, top_k
from cammsr_cli.ranking.full_ranking import EvaluationCases, model_ranks, user_queries
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.top_k import ExactIndex, FaissIndex, faiss_is_installed
from cammsr_cli.ranking.users import read_ids, user_indices
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run

needs_faiss = pytest.mark.skipif(not faiss_is_installed(), reason="the extra faiss is not there")


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return make_recommender(tmp_path_factory.mktemp("toy"))


def _history(recommender: Recommender, user: int) -> list[int]:
    data = recommender.run.data
    return data.event_item[data.event_indptr[user] : data.event_indptr[user + 1]].tolist()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_many_users_get_what_each_gets_alone(recommender: Recommender, exclude_seen: bool) -> None:
    data, model = recommender.run.data, recommender.run.model
    recommender = Recommender(recommender.run, exclude_seen=exclude_seen)
    users = np.array([5, 6, 7, 2, 59, 0])
    answers = recommender.answers(users, 7)
    assert answers.item_UK.shape == (6, 7)
    for row, user in enumerate(users.tolist()):
        alone = recommender.recommend(data.user_ids[user], 7)
        assert [one.rank for one in alone] == list(range(1, 8))
        assert [one.item for one in alone] == [data.item_ids[i] for i in answers.item_UK[row]]
        assert [one.score for one in alone] == pytest.approx(
            answers.score_UK[row].tolist(), abs=1e-6
        )
        for place, one in enumerate(alone):
            assert list(one.weights) == list(model.streams)
            weights = answers.weight_UKS[row, place].tolist()
            assert list(one.weights.values()) == pytest.approx(weights, abs=1e-4)
            at = int(answers.forward_UK[row, place])
            shown = None if one.put_forward is None else one.put_forward.modality
            assert shown == (None if at < 0 else model.modalities[at])
        seen = set(_history(recommender, user)) & set(answers.item_UK[row].tolist())
        assert not seen or not exclude_seen


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_what_a_user_rejected_is_not_recommended(
    recommender: Recommender, exclude_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = Recommender(recommender.run, exclude_seen=exclude_seen)
    users = np.array([3, 9])
    before = recommender.answers(users, ITEMS).item_UK
    unseen = [item for item in before[0].tolist() if item not in _history(recommender, 3)]
    seen = _history(recommender, 3)[0]  # taken once, and turned down since
    pairs = np.array([0, 0, 0]), np.array([*unseen[:2], seen]), np.array([0, 0, 1])
    monkeypatch.setattr(DataSet, "rejected", lambda _self, _users: pairs)
    answers = recommender.answers(users, ITEMS)
    shown = answers.item_UK[0][np.isfinite(answers.score_UK[0])]
    assert not set(shown.tolist()) & {*unseen[:2], seen}
    assert set(unseen[2:]) <= set(shown.tolist())
    assert answers.item_UK[1].tolist() == before[1].tolist()


@pytest.mark.parametrize("again", [True, False])
def test_whether_seen_items_stay_is_what_the_data_says_unless_told(
    tmp_path: Path, again: bool
) -> None:
    run = make_recommender(tmp_path, again=again).run
    assert (run.spec.repeat_share > 0.1) == again

    def kept(recommender: Recommender) -> int:
        """How many of all users' best items they have had."""
        answers = recommender.answers(recommender.everyone, 10)
        return sum(
            len(set(_history(recommender, user)) & set(items.tolist()))
            for user, items in enumerate(answers.item_UK)
        )

    assert (kept(Recommender(run)) > 0) == again
    assert kept(Recommender(run, exclude_seen=False)) > 0
    assert kept(Recommender(run, exclude_seen=True)) == 0


@pytest.mark.parametrize("index", ["exact", pytest.param("faiss", marks=needs_faiss)])
def test_kept_items_are_scored_with_the_bias_of_their_last_time(tmp_path: Path, index: str) -> None:
    recommender = make_recommender(tmp_path, again=True)
    recommender.choose_index(index, users=USERS, k=5)
    run = recommender.run
    answers = recommender.answers(recommender.everyone, 5)
    bounds = torch.from_numpy(run.data.event_indptr)
    query_UX = user_queries(run.model, recommender.tables, run.events, bounds[:-1], bounds[1:])
    score_UN = query_UX @ recommender.tables.target_NV.T
    assert run.model.repeats is not None
    moved = 0
    for user in range(USERS):
        plain = score_UN[user].topk(5).indices.tolist()
        latest = _history(recommender, user)[::-1]
        for item in set(latest):
            score_UN[user, item] += run.model.repeats(torch.tensor(latest.index(item) + 1)).item()
        best = score_UN[user].topk(5)
        assert answers.item_UK[user].tolist() == best.indices.tolist()
        assert answers.score_UK[user] == pytest.approx(best.values.numpy(), abs=1e-5)
        moved += best.indices.tolist() != plain
    assert moved > USERS / 4


def test_put_forward_is_the_heaviest_content_the_item_has(recommender: Recommender) -> None:
    model, present = recommender.run.model, recommender.run.catalogue.present
    answers = recommender.answers(recommender.everyone, 10)
    named = 0
    for items, weights, forward in zip(
        answers.item_UK, answers.weight_UKS, answers.forward_UK, strict=True
    ):
        for item, weight_S, at in zip(items, weights, forward, strict=True):
            weight = dict(zip(model.streams, weight_S, strict=True))
            there = [name for name in model.modalities if present[name][item]]
            if at < 0:
                assert not there
            else:
                assert weight[model.modalities[at]] == max(weight[name] for name in there)
                named += 1
    assert named > 100


def test_one_user_reads_no_other_user_s_events_and_no_other_item_s_texts(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("this reads all")

    monkeypatch.setattr(DataSet, "field", refuse)
    monkeypatch.setattr("cammsr_cli.runs.loading.read_events", refuse)
    fresh = Recommender(load_run(_folder(recommender), None, torch.device("cpu")))
    assert fresh.recommend("u3", 5)[0].title.startswith("Thing ")
    assert not {"event_item", "event_time", "event_part"} & vars(fresh.run.data).keys()


def _folder(recommender: Recommender) -> RunFolder:
    return RunFolder(recommender.run.data.path.parent / "run")


def test_users_are_found_by_id_in_the_order_asked(recommender: Recommender) -> None:
    assert user_indices(recommender.run.data, ["u9", "u0", "u9"]).tolist() == [9, 0, 9]
    assert recommender.everyone.tolist() == list(range(USERS))


def test_unknown_users_are_told_with_ids_like_theirs(recommender: Recommender) -> None:
    with pytest.raises(CammsrError, match=r"no user 'u5x' in .* \(60 users; ids like: u50, u51"):
        recommender.recommend("u5x", 3)
    with pytest.raises(CammsrError, match="no user 'nobody' and 2 others in"):
        user_indices(recommender.run.data, ["u1", "nobody", "x", "y"])


def test_a_model_of_ids_alone_puts_nothing_forward(tmp_path: Path) -> None:
    recommender = make_recommender(tmp_path, resolve("sasrec", None, ["model.width=16"], {}))
    answers = recommender.answers(np.array([1, 2]), 4)
    assert (answers.forward_UK == -1).all()
    assert (answers.weight_UKS == 1).all()
    assert recommender.recommend("u1", 2)[0].put_forward is None


@needs_faiss
def test_faiss_finds_nearly_what_exact_finds_and_says_how_nearly(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend, "RECALL_USERS", 20)
    exact = recommender.answers(recommender.everyone, 5)
    approximate = Recommender(recommender.run)
    told = approximate.choose_index("faiss", users=1, k=5)
    assert told is not None
    assert (told.k, told.users, told.used) == (5, 20, True)
    assert isinstance(approximate.index, FaissIndex)
    found = approximate.answers(approximate.everyone, 5)
    same = np.mean(
        [len(set(a) & set(b)) / 5 for a, b in zip(exact.item_UK, found.item_UK, strict=True)]
    )
    assert same == pytest.approx(told.share, abs=0.1)
    assert told.share > 0.9


@pytest.mark.skipif(not faiss_is_installed(), reason="the extra faiss is not there")
@pytest.mark.parametrize("aim", [0.5, 1.1])
def test_auto_takes_no_index_that_finds_too_little(recommender, monkeypatch, aim: float) -> None:
    for name in ("FAISS_FROM_ITEMS", "FAISS_FROM_USERS"):
        monkeypatch.setattr(top_k, name, 1)
    monkeypatch.setattr(recommend, "RECALL_AIM", aim)
    chosen = Recommender(recommender.run)
    told = chosen.choose_index("auto", users=60, k=5)
    assert told is not None
    assert told.used == isinstance(chosen.index, FaissIndex) == (aim < 1)


def test_few_users_or_items_are_searched_exactly(recommender: Recommender) -> None:
    assert recommender.choose_index("auto", users=10**9, k=5) is None
    assert recommender.choose_index("exact", users=10**9, k=5) is None
    assert isinstance(recommender.index, ExactIndex)


def test_user_ids_are_read_once_each_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("\ufeffu2\r\n\n  u1 \nu2\nэ 3\n", encoding="utf-8")
    assert read_ids(file, "user") == ["u2", "u1", "э 3"]
    file.write_bytes("u\u2028v\r\nu\x85w\n".encode())  # which Unicode calls ends of lines
    assert read_ids(file, "user") == ["u\u2028v", "u\x85w"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfeu", None])
def test_a_file_without_user_ids_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ids.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"ids\.txt"):
        read_ids(file, "user")


@pytest.mark.parametrize("index", ["exact", pytest.param("faiss", marks=needs_faiss)])
@pytest.mark.parametrize("new_share", [None, 0.3])
def test_nothing_is_recommended_of_which_nothing_is_known(
    tmp_path: Path, index: str, new_share: float | None
) -> None:
    run = make_recommender(tmp_path).run
    unknown = torch.tensor([0, 7, 39])
    run.catalogue.id_row_N[torch.cat([unknown, torch.tensor([5, 6])])] = -1
    for has in run.catalogue.present.values():
        has[unknown], has[5:7] = False, True  # 5 and 6 are new, but known by their content
    # Untaught, what stands for a missing stream may score anything: here, more than all others.
    with torch.no_grad():
        run.model.items.missing_SD += 10
    recommender = Recommender(run, new_share)
    recommender.choose_index(index, users=USERS, k=ITEMS)
    answers = recommender.answers(recommender.everyone, ITEMS)
    there = np.isfinite(answers.score_UK)
    assert not set(answers.item_UK[there].tolist()) & set(unknown.tolist())
    assert {5, 6} <= set(answers.item_UK[there].tolist())
    shown = ITEMS - len(unknown)
    for user, row in enumerate(there):
        assert row.sum() == shown - len(set(_history(recommender, user)) - set(unknown.tolist()))
    # In a ranking they stand behind all others, whoever asks for them.
    indptr = run.data.event_indptr.astype(np.int64)
    some = recommender.everyone[:3]
    asked = EvaluationCases(some, indptr[some], indptr[some + 1], unknown.numpy())
    rank = model_ranks(run.model, run.catalogue, run.events, asked, new_share=new_share)
    left = [
        ITEMS - len(set(_history(recommender, user)) - {item})
        for user, item in zip(some.tolist(), unknown.tolist(), strict=True)
    ]
    assert rank.tolist() == left
    best = EvaluationCases(some, indptr[some], indptr[some + 1], answers.item_UK[:3, 0])
    rank = model_ranks(
        run.model, run.catalogue, run.events, best,
        new_share=2 / ITEMS if new_share is None else new_share,
    )  # fmt: skip
    assert rank.tolist() == [1] * 3
