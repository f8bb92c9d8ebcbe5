"""What a corpus holds, in words: for comparing with what was written."""

from __future__ import annotations

from cammsr_cli.data.corpus import Corpus


def sequences(corpus: Corpus) -> dict[str, list[str]]:
    """User to the items of their events, in order."""
    starts = corpus.event_indptr
    return {
        user: [corpus.item_ids[item] for item in corpus.event_item[starts[n] : starts[n + 1]]]
        for n, user in enumerate(corpus.user_ids)
    }


def categories_of(corpus: Corpus) -> dict[str, list[str]]:
    """Item to its categories."""
    starts = corpus.category_indptr
    return {
        item: [corpus.category_names[c] for c in corpus.category_index[starts[n] : starts[n + 1]]]
        for n, item in enumerate(corpus.item_ids)
    }
