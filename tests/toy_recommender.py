"""A recommender made in a moment: toy data and a model with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from toy_data import write_toy_data

from cammsr_cli.config import Config, ModelConfig
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run
from cammsr_cli.runs.spec import build_model, describe, training_items
from cammsr_cli.training.sizing import fitted

USERS, ITEMS = 60, 40

SMALL = Config(model=ModelConfig(width=16, layers=1, length=8))


def make_recommender(folder: Path, config: Config = SMALL, again: bool = False) -> Recommender:
    """Of the run `folder`/run, written for the purpose; users take items again, or do not."""
    data = DataSet(write_toy_data(folder / "toy.h5", USERS, ITEMS, again=again))
    config, _ = fitted(config, data, torch.device("cpu"))
    run = RunFolder(folder / "run")
    spec = describe(data, config.model, "cammsr")
    run.begin(config, spec, [data.item_ids[item] for item in training_items(data)])
    torch.manual_seed(0)
    model = build_model(spec, config.model)
    if model.repeats is not None:  # about as much as items' scores differ
        torch.nn.init.normal_(model.repeats.weight_R, std=0.01)
    run.finish(model.state_dict())
    return Recommender(load_run(run, None, torch.device("cpu")))
