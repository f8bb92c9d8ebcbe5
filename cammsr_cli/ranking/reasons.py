"""Detailed explanations: influential past items, predicted categories, and the best piece.

Axes: E events of one history, K items, S streams, C categories, P parts of a score, V score width,
R pieces of one content, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cammsr_encoders.protocol import BadSample
from torch import Tensor

from cammsr_cli.data.dataset import ModalityInfo
from cammsr_cli.encoding.decode import Decoder, Failure
from cammsr_cli.encoding.engine import encoder_faults, full_fingerprint
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.history_windows import Events
from cammsr_cli.plugins.registry import EncoderSpec, make_encoder
from cammsr_cli.ranking.full_ranking import user_queries

_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|$)", re.DOTALL)

SENTENCES_AT_MOST = 64
"""Largest number of sentences of a text."""

DECODE_SECONDS = 60.0
"""Time limit in seconds for decoding a clip."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, at most `SENTENCES_AT_MOST`."""
    found = (match.group().strip() for match in _SENTENCE.finditer(text))
    return [sentence for sentence in found if sentence][:SENTENCES_AT_MOST]


@torch.inference_mode()
def influences(
    model: Cammsr, tables: ItemTables, average_V: Tensor, events: Events, item_K: Tensor
) -> Tensor:
    """Decrease of the scores of some items when one event of a history is removed: [E, K].

    Scores are measured relative to the user's mean score, because a ranking does not depend on what
    all items share. Each event is removed in turn and the scores are computed again. Only the last
    `model.length` events count.

    Args:
        model: The model.
        tables: Tables of all items.
        average_V: Mean of all items' targets.
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
    if count == 1:  # without it the history is empty: it accounts for the whole score
        return score_WK[:1]
    return score_WK[:1] - score_WK[1:]


@torch.inference_mode()
def predicted_categories(
    model: Cammsr, tables: ItemTables, item_K: Tensor, names: Sequence[str]
) -> list[dict[str, float]]:
    """The three most likely categories of each item, with the streams' mean probabilities.

    Args:
        model: The model.
        tables: Tables of the items `item_K`, with their category logits.
        item_K: int64 items; only their number is used.
        names: Names of the categories.
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
class PieceChooser:
    """Finds the piece of an item's content that increases the item's score most for one user.

    Each piece is encoded by the encoder that encoded the item's content, and projected by the
    model. The piece with the largest contribution to the user's score is chosen.

    Args:
        model: The model.
        modality: The modality of the pieces.
        info: Describes how the data set's vectors of the modality were made.
    """

    model: Cammsr
    modality: str
    info: ModalityInfo

    def __post_init__(self) -> None:
        """Make the encoder.

        Raises:
            CammsrError: The encoder is not installed, or did not make the data set's vectors.
        """
        spec = _spec_of(self.info)
        self.encoder = make_encoder(spec)
        if full_fingerprint(self.encoder, spec.name) != self.info.fingerprint:
            raise CammsrError(
                f"the encoder {spec} is not the one that made the {self.modality} vectors",
                "Install the version that did, or prepare the data set again",
            )

    @torch.inference_mode()
    def projected(self, samples: list[Any]) -> Tensor:
        """Encode and project loaded pieces: [R, D]."""
        with encoder_faults(self.info.encoder, f"on {len(samples)} pieces"):
            vectors = np.asarray(self.encoder.encode(samples), dtype=np.float32)
        values = torch.from_numpy(vectors).to(self.model.device)
        return self.model.items.projected(self.modality, values)

    @torch.inference_mode()
    def best_of(self, x_RD: Tensor, query_V: Tensor) -> int:
        """Index of the piece that adds most to the score of the user with this query."""
        stream = self.model.streams.index(self.modality)
        part = max(at for at, one in enumerate(self.model.items.parts) if one.stream == stream)
        width = self.model.width
        return int((x_RD @ query_V[part * width : (part + 1) * width]).argmax())


class SentenceChooser(PieceChooser):
    """Finds the best sentence of a text."""

    def best(self, text: str, query_V: Tensor) -> str:
        """The sentence that adds most to the score of the user with this query."""
        found = sentences(text)
        if len(found) < 2:
            return text.strip()
        field = self.info.fields[-1] if "description" not in self.info.fields else "description"
        x_RD = self.projected([self.encoder.load({field: sentence}) for sentence in found])
        return found[self.best_of(x_RD, query_V)]


class FrameChooser(PieceChooser):
    """Finds the best frame of a clip, among the frames by which the clip was encoded."""

    def __post_init__(self) -> None:
        """Make the encoder.

        Raises:
            CammsrError: As in `PieceChooser`, or the encoder cannot return a clip's single frames.
        """
        super().__post_init__()
        if not callable(getattr(self.encoder, "moments", None)):
            raise CammsrError(
                f"the encoder {self.info.encoder} does not tell a clip's frames apart",
                "Give it a method moments(item), as the guide to encoders says",
            )
        self._known: dict[Path, tuple[list[float], Tensor]] = {}

    def best(self, clip: Path, query_V: Tensor) -> float:
        """Time, in seconds from the start, of the frame that adds most to the user's score.

        Raises:
            BadSample: The clip cannot be decoded.
        """
        if clip not in self._known:
            with closing(Decoder(_Moments(self.encoder), 1, DECODE_SECONDS)) as decoder:
                decoder.give([{self.info.fields[-1]: str(clip)}])
                (found,) = decoder.take(1)
            if isinstance(found, Failure):
                raise BadSample(found.reason)
            self._known[clip] = [at for at, _ in found], self.projected([one for _, one in found])
        seconds, x_RD = self._known[clip]
        return seconds[self.best_of(x_RD, query_V)]


@dataclass(frozen=True)
class _Moments:
    """Loads a clip's single frames; called in another process."""

    encoder: Any

    def load(self, item: Mapping[str, str]) -> list[tuple[float, Any]]:
        found: list[tuple[float, Any]] = self.encoder.moments(item)
        return found


def _spec_of(info: ModalityInfo) -> EncoderSpec:
    """The spec of an encoder, read from its fingerprint.

    Raises:
        CammsrError: The vectors were not made by an encoder that records its options.
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
