"""The content of a gallery: users, their histories, their recommendations and explanations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from cammsr_encoders.protocol import MEDIA_FIELDS
from numpy.typing import NDArray

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.ranking.content_pieces import FindMedia, media_unknown
from cammsr_cli.ranking.evaluate import Ranked
from cammsr_cli.ranking.new_items import evenly
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.recommendations import BECAUSE, Recommendation, RecommendedList
from cammsr_cli.ranking.sessions import Sessions
from cammsr_cli.report.thumbnails import Wanted

USERS_AT_MOST = 200
"""Maximum number of users in a gallery."""

SAMPLED = 24
"""Number of users in the gallery of an evaluation."""

LISTED = 6
"""Number of items recommended to each of these users."""

PAST = 12
"""Number of latest items of a history that are shown."""

LARGE, SMALL = 320, 112
"""Pixels of the longer side of a picture: of a recommended item, and of a past item."""

_LOOKED_AT = 2_000


@dataclass(frozen=True)
class Item:
    """An item as it is shown.

    Attributes:
        id: Its id.
        title: Its title; its id if it has no title.
        categories: Indices of its categories in the data set.
        picture: Its image, or else a frame of its video; None if it has neither.
    """

    id: str
    title: str
    categories: list[int]
    picture: Wanted | None


@dataclass(frozen=True)
class PastChoice:
    """An item of a history.

    Attributes:
        item: The item.
        mattered: Whether it is one of the items with the largest effect on the recommendations.
    """

    item: Item
    mattered: bool


@dataclass(frozen=True)
class Card:
    """A recommended item.

    Attributes:
        item: The item.
        recommendation: The result of `recommend` for it.
        form: What is put forward: "image", "video", "words" (of a text), or "" for nothing.
        frame: The frame of a video that is put forward; None otherwise.
        chosen: Whether the user chose this item next.
    """

    item: Item
    recommendation: Recommendation
    form: str
    frame: Wanted | None
    chosen: bool


@dataclass(frozen=True)
class NextChoice:
    """The item that a user chose next, which is hidden from the model.

    Attributes:
        item: The item.
        rank: Its rank by the model.
        of: Number of items in the catalogue.
    """

    item: Item
    rank: int
    of: int


@dataclass(frozen=True)
class Person:
    """One user or visitor.

    Attributes:
        user: The id.
        popular: Whether popular items are recommended, because nothing is known about the user.
        events: Length of the history.
        past: The latest items of the history, latest first.
        cards: The recommended items, best first.
        next: The item that was chosen next; None if it is not known.
    """

    user: str
    popular: bool
    events: int
    past: list[PastChoice]
    cards: list[Card]
    next: NextChoice | None

    @property
    def categories(self) -> list[int]:
        """Categories of all recommended items."""
        return sorted({at for card in self.cards for at in card.item.categories})

    @property
    def pictures(self) -> list[Wanted]:
        """All pictures to show for this user."""
        items = [past.item for past in self.past] + [card.item for card in self.cards]
        if self.next is not None:
            items.append(self.next.item)
        found = [item.picture for item in items] + [card.frame for card in self.cards]
        return [one for one in found if one is not None]


@dataclass(frozen=True)
class Gallery:
    """Users with their recommendations, as shown on a page.

    Attributes:
        people: The users.
        streams: Names of the streams, which have one weight each.
        category_names: Names of all categories of the data set.
    """

    people: list[Person]
    streams: list[str]
    category_names: list[str]

    @property
    def categories(self) -> dict[int, str]:
        """Categories of the recommended items, by index, sorted by name."""
        shown = {at for person in self.people for at in person.categories}
        names = {at: self.category_names[at] for at in shown}
        return dict(sorted(names.items(), key=lambda pair: pair[1].casefold()))

    @property
    def forms(self) -> list[str]:
        """Modalities that are put forward for at least one item."""
        found = {card.recommendation.put_forward for person in self.people for card in person.cards}
        names = {one.modality for one in found if one is not None}
        return [stream for stream in self.streams if stream in names]

    @property
    def pictures(self) -> list[Wanted]:
        """All pictures to show."""
        return [one for person in self.people for one in person.pictures]


def of_lists(
    recommender: Recommender,
    sessions: Sessions,
    lists: Sequence[RecommendedList],
    following: Sequence[tuple[int, int]] = (),
) -> Gallery:
    """Create a gallery from recommendation lists.

    Args:
        recommender: The recommender that created the lists.
        sessions: The users.
        lists: One list per user.
        following: The item that each user chose next and its rank, if known.
    """
    data = recommender.run.data
    items = _Items(data)
    bounds, history = sessions.histories.indptr.tolist(), sessions.histories.item
    past = [history[a:b].tolist() for a, b in pairwise(bounds)]
    items.read(
        {item for own in past for item in own[-PAST:]}
        | {recommender.index_of(one.item) for listed in lists for one in listed.items}
        | {item for item, _ in following}
    )
    people = []
    for at, listed in enumerate(lists):
        chosen = following[at] if following else None
        mattered = most_effect(listed)
        shown = [items.shown(item, SMALL) for item in past[at][: -PAST - 1 : -1]]
        people.append(
            Person(
                user=listed.user,
                popular=listed.popular,
                events=len(past[at]),
                past=[PastChoice(item, item.id in mattered) for item in shown],
                cards=[
                    _card(items, recommender.index_of(one.item), one, chosen)
                    for one in listed.items
                ],
                next=None
                if chosen is None
                else NextChoice(items.shown(chosen[0], SMALL), chosen[1], len(data.item_ids)),
            )
        )
    return Gallery(people, list(recommender.run.model.streams), data.category_names)


def most_effect(listed: RecommendedList) -> set[str]:
    """Return the past items with the largest effect on the whole list."""
    effect: dict[str, float] = defaultdict(float)
    for one in listed.items:
        for past in one.because:
            effect[past.item] += past.effect
    return set(sorted(effect, key=effect.__getitem__, reverse=True)[:BECAUSE])


def of_sample(found: Ranked, remarks: list[str], find_media: FindMedia = media_unknown) -> Gallery:
    """Create a gallery of a sample of evaluated users, spread over categories.

    The history of each user is the input of the model: it ends before the item chosen next.

    Args:
        found: The evaluated run.
        remarks: Receives notes about what could not be explained.
        find_media: Returns the file of a video, or why it cannot be used.
    """
    cases = found.ranking.cases.take(chosen := spread_over_categories(found))
    recommender = Recommender(found.run, found.new_share, found.exclude_seen, ranking=found.ranking)
    sessions = recommender.of_users(cases.user_U).first((cases.end_U - cases.start_U).tolist())
    lists = [
        recommender.explained(one, sessions.part(at, at + 1), remarks, find_media)
        for at, one in enumerate(recommender.lists(sessions, LISTED))
    ]
    following = list(zip(cases.item_U.tolist(), found.rank[chosen].tolist(), strict=True))
    return of_lists(recommender, sessions, lists, following)


def spread_over_categories(found: Ranked) -> NDArray[np.int64]:
    """Return indices of evaluated users, sampled in turn from each favourite category."""
    data, cases = found.run.data, found.ranking.cases
    looked_at = evenly(len(cases.user_U), _LOOKED_AT).numpy()
    label_NC = data.category_labels()
    groups: dict[int, list[int]] = {}
    for at in looked_at.tolist():
        own = data.event_item[cases.start_U[at] : cases.end_U[at]]
        count_C = label_NC[own].sum(0)
        groups.setdefault(int(count_C.argmax()) if count_C.any() else -1, []).append(at)
    turns = [
        [own[int(at)] for at in np.linspace(0, len(own) - 1, min(len(own), SAMPLED))]
        for own in groups.values()
    ]
    in_turn = [own[turn] for turn in range(SAMPLED) for own in turns if turn < len(own)]
    return np.array(in_turn[:SAMPLED], dtype=np.int64)


class _Items:
    """The items of a page, read from the data set in one call."""

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._fields: dict[int, Mapping[str, str]] = {}

    def read(self, items: set[int]) -> None:
        names = ("title", *MEDIA_FIELDS)
        rising = sorted(items)
        texts = self._data.fields_of(names, rising)
        for place, item in enumerate(rising):
            self._fields[item] = {name: texts[name][place].strip() for name in names}

    def shown(self, item: int, side: int) -> Item:
        fields, indptr_index = self._fields[item], self._data.categories
        indptr, index = indptr_index
        picture = next(
            (Wanted(name, fields[name], side) for name in MEDIA_FIELDS if fields[name]), None
        )
        own_id = self._data.item_ids[item]
        return Item(
            own_id,
            fields["title"] or own_id,
            index[indptr[item] : indptr[item + 1]].tolist(),
            picture,
        )


def _card(
    items: _Items, item: int, recommendation: Recommendation, chosen: tuple[int, int] | None
) -> Card:
    shown = items.shown(item, LARGE)
    forward = recommendation.put_forward
    form, frame = "", None
    if forward is not None and forward.content:
        form = forward.field if forward.field in MEDIA_FIELDS else "words"
        if form == "video":
            frame = Wanted("video", forward.content.strip(), LARGE, forward.seconds)
    return Card(shown, recommendation, form, frame, chosen is not None and chosen[0] == item)
