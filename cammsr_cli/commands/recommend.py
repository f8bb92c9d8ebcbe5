"""`cammsr recommend`: recommend the next items for a user, with explanations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.commands.options import KeepSeen, MediaRoot, NewShare
from cammsr_cli.commands.pages import (
    media_source,
    require_few,
    require_media_root,
    write_gallery_page,
)
from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cammsr_cli.ranking.recommend import Recommender
    from cammsr_cli.ranking.recommendations import Recall, Recommendation, RecommendedList
    from cammsr_cli.ranking.sessions import Sessions

EXAMPLES = [
    "cammsr recommend run --user user-0001",
    "cammsr recommend run --user user-0001 --user user-0002 --k 3",
    "cammsr recommend run --user user-0001 --json",
    "cammsr recommend run --history item-0001,item-0007 --explain",
    "cammsr recommend run --user user-0001 --category Books --per-category 3",
    "cammsr recommend run --user user-0001 --html gallery.html --media-root shop",
    "cammsr recommend run --all-users --out recommendations.parquet",
]
HELP_EPILOG = epilog(EXAMPLES)


class IndexChoice(StrEnum):
    """The method of searching for the best items."""

    AUTO = "auto"
    EXACT = "exact"
    FAISS = "faiss"


def command(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'cammsr train'.")] = Path("run"),
    user: Annotated[
        list[str] | None, typer.Option(help="User id, as in your files; repeatable.")
    ] = None,
    users_from: Annotated[
        Path | None, typer.Option(help="Text file of user ids, one a line.", metavar="FILE")
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="All users of the data set; needs --out.")
    ] = False,
    history: Annotated[
        str | None,
        typer.Option(
            help="What a visitor who is not in the data has taken, oldest first; with times, if "
            "there are any.",
            metavar="ITEM[@TIME],…",
        ),
    ] = None,
    sessions: Annotated[
        Path | None,
        typer.Option(
            help="Table of many visitors: session, item and perhaps time, one row an event.",
            metavar="FILE",
        ),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Recommend only the items of this text file, one id a line.", metavar="FILE"
        ),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Recommend only items of this category; repeatable.")
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(
            help="Recommend none of the items of this text file: sold out, say.", metavar="FILE"
        ),
    ] = None,
    per_category: Annotated[
        int | None, typer.Option(min=1, help="Most items of one category in a list.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Look at histories as they were then: an ISO date, in UTC, or seconds since 1970.",
            metavar="TIME",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Say which past items mattered, what the content is taken for, and choose the "
            "sentence of a text and the frame of a clip that fit the user best.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a .parquet, .csv or .jsonl file instead of printing."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page to look at instead of printing: pictures, moments of clips and "
            "reasons. One .html file, which needs no network.",
            metavar="FILE",
        ),
    ] = None,
    media_root: MediaRoot = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")] = 10,
    keep_seen: KeepSeen = None,
    new_share: NewShare = None,
    index: Annotated[
        IndexChoice,
        typer.Option(
            help="exact ranks every item; faiss searches an approximate index and tells its "
            "recall; auto takes faiss for large catalogues and many users on a CPU."
        ),
    ] = IndexChoice.AUTO,
    data: Annotated[
        Path | None,
        typer.Option(help="Data set, if not the one the run was trained on: a newer one, say."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace --out and --html.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend users' next items, and say why.

    The columns named after id, text, image, ... are the shares of each in what lifts the item above
    the user's average item. 'Put forward' is the content that counts most for this user: show the
    picture, the clip, or the text.
    """
    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking import sessions as of_whom
    from cammsr_cli.ranking.item_filter import Choice
    from cammsr_cli.ranking.recommend import Recommender
    from cammsr_cli.ranking.top_k import require_faiss
    from cammsr_cli.ranking.users import read_ids, user_indices
    from cammsr_cli.runs.folder import RunFolder
    from cammsr_cli.runs.loading import load_run

    ids = [*(user or []), *(read_ids(users_from, "user") if users_from is not None else [])]
    ids = list(dict.fromkeys(ids))
    if all_users and ids:
        raise UsageError("--all-users leaves no one to name: leave out --user and --users-from")
    if sum([all_users or bool(ids), history is not None, sessions is not None]) > 1:
        raise UsageError("users, --history and --sessions are three ways to say for whom: take one")
    if all_users and out is None:
        raise UsageError("--all-users writes a file: name it", EXAMPLES[-1])
    if not (all_users or ids or history is not None or sessions is not None):
        raise UsageError("for whom? Name a user: --user ID", EXAMPLES[0])
    require_media_root(media_root)
    if html is not None and out is not None:
        raise UsageError("--html shows lists and --out writes them to a table: take one")
    if explain and out is not None:
        raise UsageError("--explain is for lists that are printed: leave out --out")
    choice = Choice(
        items=read_ids(items, "item") if items is not None else None,
        categories=category or (),
        excluded=read_ids(exclude, "item", may_be_empty=True) if exclude is not None else (),
        per_category=per_category,
        until=None if as_of is None else _moment(as_of),
    )
    if out is not None:
        from cammsr_cli.ranking.recommendation_file import require_writable

        require_writable(out, force)
    if html is not None:
        from cammsr_cli.report import page

        page.require_free("--html", html, force)
        require_few(len(ids))
    if index is IndexChoice.FAISS:
        require_faiss()
    loaded = load_run(RunFolder(run), data, resolve_device(device))
    seen = None if keep_seen is None else not keep_seen
    recommender = Recommender(loaded, new_share, seen, choice)
    visitors: Sessions | None = None
    if history is not None:
        visitors = of_whom.of_visitor(loaded.data, history)
    elif sessions is not None:
        visitors = of_whom.of_file(loaded.data, sessions)
    users = user_indices(loaded.data, ids) if ids else recommender.everyone
    count = len(users) if visitors is None else len(visitors)
    recall = recommender.choose_index(index.value, count, k)
    if recall is not None:
        console.note(
            f"recall@{recall.k} against exact: {recall.share:.3f}, {recall.users:,} users; "
            f"index built in {recall.seconds:.1f} s" + ("" if recall.used else ", not used")
        )
    if out is not None:
        _write(recommender, visitors or users, out, k, recall, force, as_json)
    else:
        sessions_of_all = visitors or recommender.of_users(users)
        if html is not None:
            require_few(len(sessions_of_all))
        remarks: list[str] = []
        lists = recommender.lists(sessions_of_all, k)
        source = media_source(media_root)
        if explain or html is not None:
            lists = [
                recommender.explained(one, sessions_of_all.part(at, at + 1), remarks, source.find)
                for at, one in enumerate(lists)
            ]
        if html is not None:
            write_gallery_page(html, recommender, sessions_of_all, lists, source, remarks)
        if html is not None and not as_json:
            users_shown = "1 user" if len(lists) == 1 else f"{len(lists):,} users"
            console.result(f"{html}: {users_shown}; open it in a browser")
        else:
            _print(lists, recommender.run.model.streams, explain, as_json)
        for remark in remarks:
            console.note(remark)
    missing = [*recommender.passed_over, *(visitors.passed_over if visitors else [])]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        console.note(f"{len(missing):,} named items are not in {loaded.data.path}: {shown}")
    for remark in loaded.remarks:
        console.note(remark)
    if data is None and not loaded.same_data:
        console.note(f"{loaded.data.path} has changed since {run} was trained on it")
    catalogue = f"{len(loaded.data.item_ids):,} items"
    if loaded.new_items:
        console.note(
            f"{loaded.new_items:,} of {catalogue} have no training events: "
            "they are judged by their content alone"
        )
    if loaded.unknown_items:
        console.note(
            f"{loaded.unknown_items:,} of {catalogue} have neither training events nor any content "
            "that this model reads: they are not recommended"
        )


def _write(
    recommender: Recommender,
    visitors: NDArray[np.int64] | Sessions,
    out: Path,
    k: int,
    recall: Recall | None,
    force: bool,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from cammsr_cli.ranking.recommendation_file import write_recommendations

    with console.progress_bar("users") as progress:
        written = write_recommendations(recommender, visitors, out, k, progress, force)
    if as_json:
        measured = None if recall is None else asdict(recall)
        console.result_json({**asdict(written), "out": str(written.out), "recall": measured})
    else:
        console.result(
            f"{written.out}: {written.rows:,} recommendations for {written.users:,} users out of "
            f"{written.items:,} items, {written.seconds:.1f} s "
            f"({written.users / written.seconds:,.0f} users/s)"
        )
    if written.popular:
        console.note(
            f"{written.popular:,} have no event that the model knows: they are given the most "
            "popular items"
        )


def _moment(text: str) -> int:
    from cammsr_cli.ranking.sessions import moment

    try:
        return moment(text)
    except ValueError:
        raise UsageError(
            f"--as-of {text}: no time", "Write seconds since 1970, or a date: 2026-11-28T12:00"
        ) from None


def _print(
    lists: list[RecommendedList], streams: tuple[str, ...], explain: bool, as_json: bool
) -> None:
    from dataclasses import asdict

    if as_json:
        console.result_json(
            [
                {
                    "user": one.user,
                    "popular": one.popular,
                    "recommendations": [asdict(item) for item in one.items],
                }
                for one in lists
            ]
        )
    else:
        for one in lists:
            _show(one, streams)
            if explain:
                _show_reasons(one)
    for one in lists:
        if one.popular:
            console.note(
                f"{one.user} has no event that the model knows: these are the most popular items, "
                "scored by their number of training events"
            )


def _show_reasons(one: RecommendedList) -> None:
    console.result_table(
        [
            ("#", True),
            ("item", False),
            ("because of", False),
            ("predicted category", False),
            ("show", False),
        ],
        [
            [
                str(item.rank),
                item.item,
                "; ".join(
                    f"{past.title or past.item} ({past.effect:+.2f})" for past in item.because
                ),
                ", ".join(f"{name} {share:.0%}" for name, share in item.predicted.items()),
                _piece(item),
            ]
            for item in one.items
        ],
        title=f"why, for {one.user}",
    )


def _show(one: RecommendedList, streams: tuple[str, ...]) -> None:
    user, items = one.user, one.items
    if not items:
        console.result(
            f"user {user}: nothing left to recommend: every item has been seen or left out"
        )
        return
    console.result_table(
        [
            ("#", True),
            ("item", False),
            ("title", False),
            ("category", False),
            ("score", True),
            *((stream, True) for stream in streams),
            ("put forward", False),
        ],
        [
            [
                str(item.rank),
                item.item + (" (new)" if item.new else ""),
                _cut(item.title, 36),
                _cut(", ".join(item.categories), 28),
                f"{item.score:.2f}",
                *(f"{item.weights[stream]:.0%}" for stream in streams),
                _forward(item),
            ]
            for item in items
        ],
        title=f"next for user {user}",
    )


def _piece(item: Recommendation) -> str:
    from cammsr_cli.report.page import clock

    shown = item.put_forward
    if shown is None:
        return ""
    return shown.content if shown.seconds is None else f"{shown.content} at {clock(shown.seconds)}"


def _forward(item: Recommendation) -> str:
    if item.put_forward is None:
        return ""
    content = _cut(item.put_forward.content, 32)
    return f"{item.put_forward.modality}: {content}" if content else item.put_forward.modality


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
