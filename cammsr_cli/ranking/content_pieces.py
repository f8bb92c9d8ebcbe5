"""The piece of an item's content to show: an image, a sentence of a text, a frame of a clip.

Axes: V score width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cammsr_encoders.protocol import BadSample
from torch import Tensor

from cammsr_cli.errors import CammsrError
from cammsr_cli.runs.loading import LoadedRun

if TYPE_CHECKING:  # it imports encoders, which only explanations need
    from cammsr_cli.ranking.reasons import PieceChooser

FindMedia = Callable[[str], Path | str]
"""Maps a path or URL from an items file to the local file, or to the reason why there is none."""

Chooser = TypeVar("Chooser", bound="PieceChooser")

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)


def media_unknown(_written: str) -> str:
    """The default `FindMedia`, if no media folder is given."""
    return "no media folder is given"


@dataclass(frozen=True)
class PutForward:
    """The content of an item to show this user.

    Attributes:
        modality: The modality with the largest weight for this user and item.
        field: The item field it comes from; "" if the modality was imported as ready-made vectors.
        content: The image's or clip's path as in the items file, or a sentence of the text.
        seconds: For a clip, time in seconds of the frame that fits the user best, if requested.
    """

    modality: str
    field: str
    content: str
    seconds: float | None = None


class Pieces:
    """Finds the best sentences and frames for users of a run.

    Args:
        run: A loaded run.
    """

    def __init__(self, run: LoadedRun) -> None:
        self._run = run
        self._choosers: dict[str, PieceChooser | None] = {}

    def fitting(
        self,
        shown: PutForward | None,
        item: int,
        query_V: Tensor,
        remarks: list[str],
        find_media: FindMedia,
    ) -> PutForward | None:
        """The content to show, with the best sentence of a text or the best frame of a clip.

        Args:
            shown: The content to show.
            item: Index of the item.
            query_V: The user's query.
            remarks: Receives, once, a note about why a piece could not be chosen.
            find_media: Returns the path of a clip, or the reason why it cannot be used.
        """
        if shown is None or not shown.content:
            return shown
        if shown.modality == "text":
            return self._with_sentence(shown, item, query_V, remarks)
        if shown.field == "video":
            return self._with_frame(shown, query_V, remarks, find_media)
        return shown

    def _with_sentence(
        self, shown: PutForward, item: int, query_V: Tensor, remarks: list[str]
    ) -> PutForward:
        from cammsr_cli.ranking.reasons import SentenceChooser

        what = "the first sentence of a text is shown, not the one that fits"
        chooser = self._chooser(SentenceChooser, shown.modality, what, remarks)
        if chooser is None:
            return shown
        text = self._run.data.fields_of([shown.field], [item])[shown.field][0]
        return replace(shown, content=chooser.best(text, query_V))

    def _with_frame(
        self, shown: PutForward, query_V: Tensor, remarks: list[str], find_media: FindMedia
    ) -> PutForward:
        from cammsr_cli.ranking.reasons import FrameChooser

        what = "of clips no frame is chosen"
        clip = find_media(shown.content)
        if isinstance(clip, Path):
            chooser = self._chooser(FrameChooser, shown.modality, what, remarks)
            if chooser is None:
                return shown
            try:
                return replace(shown, seconds=chooser.best(clip, query_V))
            except BadSample as bad:
                clip = str(bad)
        _remark(f"{what}: {clip}", remarks)
        return shown

    def _chooser(
        self, kind: type[Chooser], modality: str, what: str, remarks: list[str]
    ) -> Chooser | None:
        """The chooser of pieces; None if the encoder is not available, which is noted once."""
        if modality not in self._choosers:
            try:
                info = self._run.data.modalities[modality]
                self._choosers[modality] = kind(self._run.model, modality, info)
            except CammsrError as error:
                self._choosers[modality] = None
                _remark(f"{what}: {error}", remarks)
        found = self._choosers[modality]
        return found if isinstance(found, kind) else None


def _remark(remark: str, remarks: list[str]) -> None:
    if remark not in remarks:
        remarks.append(remark)


def first_piece(modality: str, value: str) -> str:
    """The first sentence of a text; other values, such as paths, unchanged."""
    if modality != "text":
        return value
    sentence = _SENTENCE.match(value)
    return (sentence.group() if sentence else value).strip()
