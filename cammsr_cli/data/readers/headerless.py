"""Public files without a header, detected by their names or by their first line."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LAST_FM = ("user_id", "timestamp", "artist_id", "artist_name", "track_id", "track_name")
# Files without a header: a pattern of their names, and their columns.
_CALLED = (
    (r"yoochoose-(clicks|test).*", ("session_id", "timestamp", "item_id", "category_id")),
    (r"yoochoose-buys.*", ("session_id", "timestamp", "item_id", "price", "quantity")),
    (r"userbehavior.*", ("user_id", "item_id", "category_id", "behavior_type", "timestamp")),
    (r"userid-timestamp-artid-artname-traid-traname.*", _LAST_FM),
    (r"usersha1-artmbid-artname-plays.*", ("user_id", "artist_id", "artist_name", "plays")),
)
# Amazon's ratings of 2014 and 2018 have a different column order. Their file names are only the
# names of categories, so they are detected by their first line.
_ITEM, _USER, _RATING, _TIME = r"[0-9B][0-9A-Z]{9}", r"A[0-9A-Z]{8,}", r"[1-5](\.0)?", r"\d{9,10}"
_HOLDING = (
    ((r"user_\d{6}", r"\d{4}-\d\d-\d\dT[\d:]+Z", ".*", ".*", ".*", ".*"), _LAST_FM),
    ((_USER, _ITEM, _RATING, _TIME), ("user_id", "item_id", "rating", "timestamp")),
    ((_ITEM, _USER, _RATING, _TIME), ("item_id", "user_id", "rating", "timestamp")),
)


def known_columns(name: str, first_record: Sequence[str]) -> tuple[str, ...]:
    """The columns of a known file without a header; empty for other files.

    Args:
        name: The file's name.
        first_record: The fields on its first line.
    """
    for pattern, columns in _CALLED:
        data = any(field.strip()[:1].isdigit() for field in first_record)
        if re.fullmatch(pattern, name.lower()) and len(first_record) == len(columns) and data:
            return columns
    for patterns, columns in _HOLDING:
        if len(first_record) == len(patterns) and all(
            re.fullmatch(pattern, field)
            for pattern, field in zip(patterns, first_record, strict=True)
        ):
            return columns
    return ()
