"""Validation metrics of a model, computed by all processes of a training together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cammsr_cli.config import TrainingConfig
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import VALIDATION
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.ranking.branch_weights import weigh_branches
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.training.plan import Corpus


class Validation:
    """Ranks the whole catalogue for the validation event of each user, or of a sample of users.

    Args:
        data: The data set.
        corpus: Its items and events.
        config: Number of sampled users, and the seed of the sample.
        world: The processes that share the users.
        repeats: Whether users consume items repeatedly. If so, seen items are ranked, too.

    Raises:
        CammsrError: The data set has no validation events.
    """

    def __init__(
        self,
        data: DataSet,
        corpus: Corpus,
        config: TrainingConfig,
        world: World,
        repeats: bool,
    ) -> None:
        every = evaluation_cases(data, VALIDATION)
        if not len(every.item_U):
            raise CammsrError(
                f"{data.path} has no validation events: no user has 3 events or more",
                "Prepare it from more events",
            )
        self.users = every.sample(config.validation_users, config.seed)
        self.catalogue = corpus.catalogue
        self.events = corpus.events.to(world.device)
        self.world = world
        self.repeats = repeats
        self._mine = self.users.take(slice(world.rank, None, world.size))

    def measure(self, model: Cammsr) -> tuple[float, float]:
        """Compute NDCG@10 and Recall@10."""
        rank = model_ranks(
            model, self.catalogue, self.events, self._mine, exclude_seen=not self.repeats
        )
        return self._mean(rank, "NDCG"), self._mean(rank, "Recall")

    def weigh_branches(self, model: Cammsr) -> float:
        """Set the model's best branch weights; return NDCG@10 with them."""
        return weigh_branches(
            model,
            self.catalogue,
            self.events,
            self._mine,
            exclude_seen=not self.repeats,
            quality=lambda rank: self._mean(rank, "NDCG"),
        )

    def _mean(self, rank: NDArray[np.int64], metric: str) -> float:
        """Mean of a metric at cut-off 10 over the users of all processes."""
        sums = [per_user(rank, metric, 10).sum(), len(rank)]
        total, users = self.world.sum(
            torch.tensor(sums, dtype=torch.float64, device=self.world.device)
        ).tolist()
        return float(total / users)
