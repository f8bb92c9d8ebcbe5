"""Settings that are left to the data and the device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cammsr_cli.config import PRESETS, Config, resolve, validated
from cammsr_cli.data.splits import leave_one_out
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.training.sizing import fitted

CPU = torch.device("cpu")


def _log(*lengths: int) -> SimpleNamespace:
    """The events of users with histories this long, of 3 items."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    part = leave_one_out(indptr)
    return SimpleNamespace(event_indptr=indptr, event_part=part, item_ids=["a", "b", "c"])


def _fitted(config: Config, *lengths: int) -> Config:
    return fitted(config, _log(*lengths), CPU)[0]


def _batch_size(length: int, *lengths: int) -> int:
    return _fitted(validated({"model": {"length": length}}), *lengths).training.batch_size


@pytest.mark.parametrize(
    ("windows", "batch_size"),
    [(1, 32), (2559, 32), (2560, 64), (5119, 64), (5120, 128), (10_240, 256), (20_480, 512)],
)
def test_batches_are_as_large_as_leaves_forty_steps_an_epoch(windows, batch_size) -> None:
    # Of 4 events 2 are for training: one input and its target.
    assert _batch_size(100, *[4] * windows) == batch_size


@pytest.mark.parametrize(
    ("targets", "batch_size"),
    [(12, 512), (13, 256), (25, 256), (26, 128), (50, 128), (51, 64), (90, 64), (180, 64)],
)
def test_long_histories_are_taken_fewer_at_a_time(targets, batch_size) -> None:
    assert _batch_size(100, *[targets + 3] * 21_000) == batch_size


def test_users_without_a_target_make_no_window_and_long_histories_several() -> None:
    short = [1, 2, 3] * 5000  # none has two training events
    assert _batch_size(2, *short) == 32
    # 8 events: 6 for training, 5 targets, 3 windows of at most 2; 854 x 3 is 2562.
    assert _batch_size(2, *short, *[8] * 853) == 32
    assert _batch_size(2, *short, *[8] * 854) == 64


@pytest.mark.parametrize(
    ("mean", "length"), [(2, 50), (55, 50), (56, 100), (111, 100), (112, 200), (999, 200)]
)
def test_length_is_about_that_of_a_mean_history(mean: int, length: int) -> None:
    short = [1, 2, 3] * 100  # who has nothing to learn from does not count
    assert _fitted(Config(), *short, mean + 2, mean + 2).model.length == length


@pytest.mark.parametrize(
    ("an_item", "dropout"), [(1, 0.5), (12, 0.5), (60, 0.35), (290, 0.2), (10**5, 0.1)]
)
def test_the_fewer_events_an_item_has_the_more_dropout(an_item: int, dropout: float) -> None:
    assert _fitted(Config(), 3 * an_item + 2).model.dropout == dropout


def test_many_events_are_learnt_from_by_a_wider_model() -> None:
    assert _fitted(Config(), 50_001).model.width == 64
    assert _fitted(Config(), 50_002).model.width == 128


def test_what_is_given_is_kept_and_nothing_else_is_changed() -> None:
    sizes = {"width": 16, "heads": 4, "length": 9, "dropout": 0.0}
    named = {"batch_size": 7, "precision": "float32", "seed": 3}
    given = validated({"model": sizes, "training": named})
    assert fitted(given, _log(4), CPU) == (given, [])
    left, reasons = fitted(validated({"training": {"seed": 3}}), _log(4), CPU)
    chosen = {"model": ("width", "heads", "length", "dropout"), "training": ("batch_size",)}
    for section, names in chosen.items():
        for name in names:
            assert getattr(getattr(left, section), name) is not None
    default = {**chosen, "training": ("batch_size", "precision", "seed")}
    for section, names in default.items():
        ours, theirs = getattr(left, section), getattr(Config(), section)
        apart = {n for n in type(ours).model_fields if getattr(ours, n) != getattr(theirs, n)}
        assert apart == set(names)
    for word in ("length", "dropout", "width", "histories a step"):
        assert sum(word in reason for reason in reasons) >= 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("given", [[], ["model.width=9"], ["model.width=10"]])
def test_every_preset_s_fitted_settings_make_a_model(preset: str, given: list[str]) -> None:
    _build(_fitted(resolve(preset, None, given, {}), 4))


@pytest.mark.parametrize("heads", [1, 3, 7])
def test_a_width_that_is_chosen_is_a_multiple_of_the_heads_that_are_given(heads: int) -> None:
    config = _fitted(resolve("cammsr", None, [f"model.heads={heads}"], {}), 4)
    assert config.model.heads == heads
    _build(config)


def _build(config: Config) -> None:
    Cammsr(3, {"text": 4}, 2, **config.model.model_dump(exclude={"modalities"}))


def test_neighbours_are_not_looked_for_in_a_catalogue_too_large_for_it() -> None:
    for above, neighbours in ((2, 0), (3, 5)):
        given = {"model": {"neighbours": 5}, "training": {"sparse_adam_above": above}}
        assert _fitted(validated(given), 4).model.neighbours == neighbours


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_chosen_where_the_cpu_is_made_for_it(monkeypatch, able) -> None:
    # What this CPU says of itself, and its contrary.
    said = {**torch.cpu.get_capabilities(), "avx512_bf16": able, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said)
    chosen = _fitted(Config(), 4).training.precision
    assert chosen == ("bfloat16" if able else "float32")
