"""The commands as Python functions: the same results, quietly, and the same errors."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cammsr_cli import api
from cammsr_cli.api import CammsrError, SourceOptions, UsageError

EPOCH = {"training.epochs": 1}


@pytest.fixture(scope="module")
def workplace(make_shop: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small shop, its data set and a run, as the examples name them."""
    folder = tmp_path_factory.mktemp("api")
    make_shop.make_shop(folder / "shop", items=30, users=30, events_per_user=6, seed=2)
    api.prepare(folder / "shop", folder / "shop.h5", encoders=["text"])
    api.train(folder / "shop.h5", folder / "run", settings=EPOCH)
    return folder


def test_the_examples_in_its_docstrings_are_true(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    done = doctest.testmod(api)
    assert done.attempted >= 9
    assert done.failed == 0


def test_nothing_is_printed_unless_asked(
    workplace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "shop.h5", tmp_path / "run"
    api.prepare(workplace / "shop", data, encoders=["text"])
    api.train(data, run, settings=EPOCH)
    api.evaluate(run)
    api.recommend(run, ["user-0001"])
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")
    said: list[str] = []
    epochs: list[int] = []
    api.prepare(workplace / "shop", data, encoders=["text"], force=True, note=said.append)
    assert any("text" in line or "read" in line for line in said)
    said.clear()
    api.train(
        data, run, settings=EPOCH, force=True, note=said.append,
        on_epoch=lambda report: epochs.append(report.epoch),
    )  # fmt: skip
    assert any("chosen for this data" in line for line in said)
    assert epochs == [1]


def test_what_it_returns_is_what_the_commands_print(workplace: Path, cammsr: Callable) -> None:
    run = workplace / "run"
    evaluation = api.evaluate(run, device="cpu")
    printed = json.loads(cammsr("evaluate", run, "--device", "cpu", "--json").out)
    assert printed["model"]["NDCG@10"]["mean"] == evaluation.model["NDCG@10"].mean
    frame = api.recommend(run, ["user-0003", "user-0001"], k=4)
    asked = ("recommend", run, "--user", "user-0003", "--user", "user-0001", "--k", 4, "--json")
    lists = json.loads(cammsr(*asked).out)
    told = [(one["user"], item["item"]) for one in lists for item in one["recommendations"]]
    assert frame.select("user", "item").rows() == told
    assert not frame["popular"].any()


def test_reading_is_told_by_source_options(workplace: Path, tmp_path: Path) -> None:
    report = api.prepare(SourceOptions(workplace / "shop", min_rating=5), tmp_path / "best.h5")
    assert report.events < 180


def test_a_visitor_with_a_user_s_history_is_given_the_same(workplace: Path) -> None:
    model = api.load(workplace / "run")
    data = model._recommender.run.data
    first, past = data.event_indptr[:2]
    history = [
        (data.item_ids[item], int(time))
        for item, time in zip(data.event_item[first:past], data.event_time[first:past], strict=True)
    ]
    dated = [(item, datetime.fromtimestamp(time, UTC)) for item, time in history]
    own = model.recommend([data.user_ids[0]], k=5)
    found = model.recommend(histories={"as seconds": history, "as dates": dated}, k=5)
    assert found["item"].to_list() == own["item"].to_list() * 2
    assert found["user"].unique(maintain_order=True).to_list() == ["as seconds", "as dates"]


def test_inner_products_of_vectors_are_scores(workplace: Path) -> None:
    model = api.load(workplace / "run")
    users = model.users[:7]
    score = model.user_vectors(users) @ model.item_vectors().T
    index = {item: at for at, item in enumerate(model.items)}
    for user, item, told in model.recommend(users).select("user", "item", "score").iter_rows():
        assert score[users.index(user), index[item]] == pytest.approx(told, abs=1e-4)


def test_who_has_no_history_is_given_what_is_popular(workplace: Path) -> None:
    model = api.load(workplace / "run")
    found = model.recommend(histories={"new": [], "known": ["item-0001"]}, k=3)
    assert found["popular"].to_list() == [True] * 3 + [False] * 3
    assert model.recommend(histories={"new": []}, k=3)["popular"].all()
    assert not np.any(model.user_vectors(histories={"new": []})[:, :-1])


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda run: api.load(run / "none"), CammsrError, "is not a run folder"),
        (lambda run: api.recommend(run, ["nobody"]), CammsrError, "there is no user 'nobody'"),
        (lambda run: api.recommend(run), UsageError, "either users or histories"),
        (lambda run: api.recommend(run, []), UsageError, "The list is empty"),
        (lambda run: api.recommend(run, "user-0001"), UsageError, "users is one text"),
        (lambda run: api.recommend(run, ["user-0001"], k=0), UsageError, "k is 0"),
        (
            lambda run: api.recommend(run, histories={"v": ["item-0001", ("item-0002", 5)]}),
            UsageError,
            "some items have a time and some have none",
        ),
        (
            lambda run: api.recommend(run, histories={"v": [("item-0001", 9), ("item-0002", 5)]}),
            UsageError,
            "times of 'v' go back",
        ),
        (
            lambda run: api.recommend(run, histories={"v": ["nothing"]}),
            CammsrError,
            "no item of the history is in",
        ),
        (lambda run: api.train(run.parent / "shop.h5", run), UsageError, "is there already"),
        (
            lambda run: api.train(run.parent / "shop.h5", run, settings={"model.widht": 8}),
            UsageError,
            "did you mean model.width",
        ),
        (
            lambda run: api.train(run.parent / "shop.h5", run, resume=True, force=True),
            UsageError,
            "leave out force",
        ),
        (lambda run: api.prepare(run.parent / "nowhere"), UsageError, "no such file"),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_commands(
    workplace: Path, call: Callable, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        call(workplace / "run")


def test_importing_it_loads_no_torch_and_cammsr_cli_itself_nothing_heavy() -> None:
    code = (
        "import sys, cammsr_cli; heavy = {'torch', 'polars', 'numpy', 'h5py', 'pydantic'}; "
        "assert not heavy & set(sys.modules); "
        "from cammsr_cli.api import prepare, train, evaluate, recommend, load; "
        "assert 'torch' not in sys.modules; import cammsr_cli.prepare.run; "
        "from cammsr_cli.api import prepare; assert callable(prepare)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
