"""Kinds of events: weights, and those that are negative."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.event_conditions import Condition
from cammsr_cli.data.event_kinds import Weights
from cammsr_cli.errors import CammsrError, UsageError

LOG = """user,item,timestamp,action,stars
u,a,1,view,1.0
u,b,2,Dislike,2.0
u,c,3,buy,5.0
u,d,4,view,4.0
v,a,5,not-interested,1.0
v,b,6,cart,3.0
v,,7,buy,3.0
"""


def corpus_of(tmp_path: Path, log: str = LOG, **options) -> Corpus:
    path = tmp_path / "log.csv"
    path.write_text(log)
    return read_corpus(SourceOptions(path, **options))


def kinds(corpus: Corpus) -> str:
    return dict(corpus.decisions)["events"]


def test_negative_kinds_are_known_by_their_words(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    assert corpus.item_ids == ["a", "b", "c", "d"]
    assert corpus.event_item.tolist() == [0, 2, 3, 1]
    assert [one.tolist() for one in corpus.rejected] == [[0, 1], [1, 0], [1, 0]]
    assert corpus.event_weight is None
    told = kinds(corpus)
    assert "Dislike 1 (negative: not learnt from, not recommended)" in told
    assert "not-interested 1 (negative: not learnt from, not recommended)" in told
    assert "; all count alike but for the negative (" in told
    assert told.endswith("none negative: --negative '')")
    assert "2 negative events not learnt from" in corpus.notes


def test_negative_events_by_conditions(tmp_path: Path) -> None:
    none = corpus_of(tmp_path, negative=())
    assert none.rejected is None
    assert len(none.event_item) == 6
    said = (Condition.parse("action=view"), Condition.parse("stars<=2"))
    corpus = corpus_of(tmp_path, negative=said)
    assert (corpus.item_ids, corpus.event_item.tolist()) == (["b", "c"], [1, 0])
    with pytest.raises(UsageError, match="--negative action=like: no row of") as told:
        corpus_of(tmp_path, negative=(Condition.parse("action=like"),))
    assert "buy (2), view (2)" in str(told.value.hint)
    with pytest.raises(CammsrError, match="all 6 events are negative"):
        corpus_of(tmp_path, negative=(Condition.parse("stars>=0"),))


def test_weights_of_kinds(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, weights=Weights.parse("event=view:0.2, buy:3"))
    assert corpus.event_weight is not None
    assert corpus.event_weight.tolist() == pytest.approx([0.2, 3, 0.2, 1])
    assert "view 2 (weight 0.2)" in kinds(corpus)
    assert "cart 1 (weight 1)" in kinds(corpus)
    # A number is the same however it is written, and any column has kinds.
    by_stars = corpus_of(tmp_path, weights=Weights.parse("stars=5:2"))
    assert by_stars.event_weight is not None
    assert by_stars.event_weight.tolist() == [1, 2, 1, 1]
    assert "5 1 (weight 2)" in kinds(by_stars)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("event=vew:0.2", "--weight event=vew:0.2: no row of .* has 'action' 'vew'"),
        ("evnt=view:0.2", "no column 'evnt'"),
        ("event=view", "not weights of kinds"),
        ("event=view:0", "from 0.001 to 1,000"),
        ("event=view:nan", "from 0.001 to 1,000"),
        ("event=view:-1", "from 0.001 to 1,000"),
        ("event=:2", "from 0.001 to 1,000"),
        ("event=view:1,view:2", "'view' is given twice"),
    ],
)
def test_bad_weights_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        corpus_of(tmp_path, weights=Weights.parse(text))


def test_the_command_stores_weights_and_rejections(tmp_path: Path, cammsr: Callable) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    out = tmp_path / "a.h5"
    told = cammsr(
        "prepare", tmp_path / "log.csv", "--out", out,
        "--weight", "event=view:0.2", "--negative", "action=buy", "--negative", "stars<=2",
    )  # fmt: skip
    assert told.code == 0, told.err
    data = DataSet(out)
    assert data.event_weight is not None
    assert data.event_weight.tolist() == pytest.approx([0.2, 1])
    rejected = zip(*(one.tolist() for one in data.rejected(np.arange(2))), strict=True)
    assert {(u, data.item_ids[i], place) for u, i, place in rejected} == {(0, "b", 0)}
    data.verify()
    told = cammsr("prepare", tmp_path / "log.csv", "--out", out, "--force", "--weight", "event=x:1")
    assert told.code == 2
    assert "It holds buy (2), view (2)" in told.err
