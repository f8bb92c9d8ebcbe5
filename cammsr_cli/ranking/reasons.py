"""Why an item, in detail: which past items mattered, what the categories say, which sentence fits.

Axes: E events of one history, K items, S streams, C categories, P parts of a score, V score width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cammsr_cli.data.dataset import ModalityInfo
from cammsr_cli.encoding.engine import full_fingerprint, told
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.windows import Events
from cammsr_cli.plugins.registry import EncoderSpec, make_encoder
from cammsr_cli.ranking.full_ranking import user_queries

_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|$)", re.DOTALL)

SENTENCES_AT_MOST = 64
"""Of one text."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, at most `SENTENCES_AT_MOST`."""
    found = (match.group().strip() for match in _SENTENCE.finditer(text))
    return [sentence for sentence in found if sentence][:SENTENCES_AT_MOST]


@torch.inference_mode()
def influences(
    model: Cammsr, tables: ItemTables, average_V: Tensor, events: Events, item_K: Tensor
) -> Tensor:
    """By how much the scores of some items fall when one event of a history is left out: [E, K].

    A score is taken above the user's average item, as a ranking does not see what all items share.
    Each event is left out in turn and the model asked again; only the last `model.length` count.

    Args:
        model: The model.
        tables: Tables of all items.
        average_V: Mean of their targets.
        events: One history; at least one event.
        item_K: int64 items.
    """
    count = len(events.item_E)
    offset_KV = tables.target_NV[item_K] - average_V
    at_E = torch.arange(count, device=events.item_E.device)
    kept_EF = at_E.expand(count, count)[~torch.eye(count, dtype=torch.bool, device=at_E.device)]
    left = Events(
        torch.cat([events.item_E, events.item_E[kept_EF]]),
        torch.cat([events.time_E, events.time_E[kept_EF]]),
    )
    start_W = torch.cat([at_E.new_zeros(1), count + at_E * (count - 1)])
    end_W = torch.cat([at_E.new_full((1,), count), count + (at_E + 1) * (count - 1)])
    score_WK = user_queries(model, tables, left, start_W, end_W) @ offset_KV.T
    if count == 1:  # without it there is no history: the whole lift is its own
        return score_WK[:1]
    return score_WK[:1] - score_WK[1:]


@torch.inference_mode()
def predicted_categories(
    model: Cammsr, tables: ItemTables, item_K: Tensor, names: Sequence[str]
) -> list[dict[str, float]]:
    """What the streams take each item to be: the mean probabilities of its three likeliest.

    Args:
        model: The model.
        tables: Tables of the items `item_K`, with their categories.
        item_K: int64; only for their number.
        names: Of the categories.
    """
    if model.guide is None:
        return [{} for _ in item_K]
    there_TK1 = tables.present_NT.T[..., None].float()
    share_KC = (tables.category_TNC.float().sigmoid() * there_TK1).sum(0) / there_TK1.sum(0)
    best_KJ = share_KC.topk(min(3, share_KC.shape[1]), dim=1)
    return [
        {names[at]: round(share, 4) for at, share in zip(places, shares, strict=True)}
        for places, shares in zip(best_KJ.indices.tolist(), best_KJ.values.tolist(), strict=True)
    ]


@dataclass
class SentenceChooser:
    """Finds the sentence of a text that lifts its item most for one user.

    Each sentence is encoded as the item's text was, by the same encoder, and projected as the model
    does; what it adds to the user's score decides.

    Args:
        model: The model.
        modality: Whose sentences.
        info: How the data set's vectors of it were made.
    """

    model: Cammsr
    modality: str
    info: ModalityInfo

    def __post_init__(self) -> None:
        """Make the encoder.

        Raises:
            CammsrError: It is not installed, or not the one that made the data set's vectors.
        """
        spec = _spec_of(self.info)
        self.encoder = make_encoder(spec)
        if full_fingerprint(self.encoder, spec.name) != self.info.fingerprint:
            raise CammsrError(
                f"the encoder {spec} is not the one that made the {self.modality} vectors",
                "Install the version that did, or prepare the data set again",
            )

    @torch.inference_mode()
    def best(self, text: str, query_V: Tensor) -> str:
        """The sentence that adds most to the score of the user with this query."""
        found = sentences(text)
        if len(found) < 2:
            return text.strip()
        field = self.info.fields[-1] if "description" not in self.info.fields else "description"
        with told(self.info.encoder, f"on {len(found)} sentences"):
            samples = [self.encoder.load({field: sentence}) for sentence in found]
            vectors = np.asarray(self.encoder.encode(samples), dtype=np.float32)
        stream = self.model.streams.index(self.modality)
        part = max(at for at, one in enumerate(self.model.items.parts) if one.stream == stream)
        width = self.model.width
        values = torch.from_numpy(vectors).to(query_V.device)
        x_RD = self.model.items.projected(self.modality, values)
        score_R = x_RD @ query_V[part * width : (part + 1) * width]
        return found[int(score_R.argmax())]


def _spec_of(info: ModalityInfo) -> EncoderSpec:
    """The spec with which an encoder was made, as its fingerprint tells.

    Raises:
        CammsrError: The vectors were not made by an encoder that tells its options.
    """
    try:
        facts = json.loads(info.fingerprint)
        model = facts["model"]
    except (ValueError, TypeError, LookupError):
        raise CammsrError(
            f"its vectors do not tell how they were made ({info.encoder})",
            "Sentences are chosen where an encoder of cammsr made them",
        ) from None
    own = ("encoder", "version", "model", "weights", "precision")
    options = {
        name: str(value)
        for name, value in facts.items()
        if name not in own and value not in (None, "")
    }
    return EncoderSpec(info.encoder, model, options)
