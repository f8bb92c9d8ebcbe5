"""What the scripts take from the command line alike."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks.data_sets import ENCODERS, RAW


def parser_of(doc: str | None, sets: list[str]) -> argparse.ArgumentParser:
    """A parser with --work, --data and --sets.

    Args:
        doc: The script's own docstring; its first line is shown.
        sets: Data sets that are used if none are named.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    parser.add_argument("--work", type=absolute, required=True, help="folder for all results")
    parser.add_argument("--data", type=absolute, default=RAW, help="folder of the raw data sets")
    parser.add_argument("--sets", type=names_among(ENCODERS), default=sets)
    return parser


def absolute(path: str) -> Path:
    """A path that stays what it is when a process changes its folder."""
    return Path(path).resolve()


def names_among(known: Collection[str]) -> Callable[[str], list[str]]:
    """Reads "a,b"; argparse tells of a name that is not known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(
                f"unknown {', '.join(sorted(unknown))}; there are: {', '.join(known)}"
            )
        return names

    return read
