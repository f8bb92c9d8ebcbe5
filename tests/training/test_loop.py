"""The training loop: which events count as tied."""

from __future__ import annotations

from pathlib import Path

import torch

from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.data.dataset import DataSet, write_dataset
from cammsr_cli.training.loop import _ties


def prepared(folder: Path, rows: str) -> DataSet:
    (folder / "log.csv").write_text("user,item,timestamp\n" + rows)
    write_dataset(folder / "x.h5", read_corpus(SourceOptions(folder / "log.csv")), {})
    return DataSet(folder / "x.h5")


def test_only_training_events_of_one_user_at_one_time_are_tied(tmp_path: Path) -> None:
    data = prepared(tmp_path, "u,a,5\nu,b,5\nu,c,6\nu,d,6\nu,e,6\nv,f,6\nv,g,6\nv,h,6\nv,i,9\n")
    # u: a b tied; c alone among the training events; d validation, e test. v: f g tied; then h, i.
    tied = _ties(data, torch.device("cpu"))
    assert tied is not None
    assert tied.tolist() == [0, 0, 1, 2, 3, 4, 4, 5, 6]


def test_order_only_data_has_no_ties(tmp_path: Path) -> None:
    data = prepared(tmp_path, "".join(f"u,i{step},{step}\n" for step in range(6)))
    assert _ties(data, torch.device("cpu")) is None
