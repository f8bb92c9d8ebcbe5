"""Look-up of users by id, and files with lists of ids."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError, UsageError, first_line


def user_indices(data: DataSet, ids: Sequence[str]) -> NDArray[np.int64]:
    """Index of each of many users.

    Raises:
        CammsrError: At least one user does not exist. The message lists similar ids.
    """
    wanted = set(ids)
    index = {user: at for at, user in enumerate(data.user_ids) if user in wanted}
    unknown = [user for user in ids if user not in index]
    if unknown:
        raise _unknown_users(data, unknown)
    return np.array([index[user] for user in ids], dtype=np.int64)


def user_index(data: DataSet, user: str) -> int:
    """Index of one user.

    Raises:
        CammsrError: There is no such user. The message lists similar ids.
    """
    try:
        return data.user_ids.index(user)
    except ValueError:
        raise _unknown_users(data, [user]) from None


def _unknown_users(data: DataSet, users: list[str]) -> CammsrError:
    known = data.user_ids
    near = nsmallest(3, known, key=lambda other: _unlike(users[0], other))
    others = f" and {len(users) - 1:,} others" if len(users) > 1 else ""
    return CammsrError(
        f"there is no user '{users[0]}'{others} in {data.path} "
        f"({len(known):,} users; ids like: {', '.join(near)})",
        "Name one of its users: --user ID",
    )


def read_ids(file: Path, of: str, may_be_empty: bool = False) -> list[str]:
    """Read a text file with one id per line, deduplicated; `of` names their kind in messages.

    Raises:
        UsageError: The file cannot be read, or holds no ids and `may_be_empty` is False.
    """
    try:
        # Not `splitlines`: ids may contain Unicode line separators, such as U+2028.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the {of} ids in {file}: {first_line(error)}") from error
    ids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids and not may_be_empty:
        raise UsageError(f"{file} holds no {of} ids", "Write one a line")
    return ids


def _unlike(wanted: str, other: str) -> tuple[int, int, str]:
    """Sort key: ids with the longest common prefix first, then those of similar length."""
    alike = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, other, strict=False))
    )
    return -alike, abs(len(wanted) - len(other)), other
