"""How fast a trained run of ours ranks the whole catalogue for all users with a test event.

    python -m benchmarks.ranking RUN

Prints {"users": ..., "seconds": ..., "users_per_second": ...}: the median wall time of three,
loading not counted, seen items excluded.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.timing import median_seconds
from cammsr_cli.data.splits import TEST
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run


def main() -> None:
    """Load a run and time its ranking."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    loaded = load_run(RunFolder(parser.parse_args().run), None, torch.device("cpu"))
    asked = evaluation_cases(loaded.data, TEST)
    seconds = median_seconds(
        lambda: model_ranks(loaded.model, loaded.catalogue, loaded.events, asked)
    )
    users = len(asked.item_U)
    print(json.dumps({"users": users, "seconds": seconds, "users_per_second": users / seconds}))


if __name__ == "__main__":
    main()
