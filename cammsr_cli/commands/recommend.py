"""`cammsr recommend`: the next items for a user, and why."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.commands.options import KeepSeen, NewShare
from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cammsr_cli.ranking.recommend import Recall, Recommendation, Recommender

EXAMPLES = [
    "cammsr recommend run --user user-0001",
    "cammsr recommend run --user user-0001 --user user-0002 --k 3",
    "cammsr recommend run --user user-0001 --json",
    "cammsr recommend run --all-users --out recommendations.parquet",
]
HELP_EPILOG = epilog(EXAMPLES)


class IndexChoice(StrEnum):
    """How the best items are found."""

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
    out: Annotated[
        Path | None,
        typer.Option(help="Write a .parquet, .csv or .jsonl file instead of printing."),
    ] = None,
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
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend users' next items, and say why.

    The columns named after id, text, image, ... are the shares of each in what lifts the item above
    the user's average item. 'Put forward' is the content that counts most for this user: show the
    picture, the clip, or the text.
    """
    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking.recommend import Recommender, read_user_ids
    from cammsr_cli.ranking.top_k import require_faiss
    from cammsr_cli.run_folder import RunFolder, load_run

    ids = [*(user or []), *(read_user_ids(users_from) if users_from is not None else [])]
    ids = list(dict.fromkeys(ids))
    if all_users and ids:
        raise UsageError("--all-users leaves no one to name: leave out --user and --users-from")
    if all_users and out is None:
        raise UsageError("--all-users writes a file: name it", EXAMPLES[-1])
    if not all_users and not ids:
        raise UsageError("for whom? Name a user: --user ID", EXAMPLES[0])
    if out is not None:
        from cammsr_cli.ranking.recommendation_file import require_writable

        require_writable(out, force)
    if index is IndexChoice.FAISS:
        require_faiss()
    loaded = load_run(RunFolder(run), data, resolve_device(device))
    recommender = Recommender(loaded, new_share, None if keep_seen is None else not keep_seen)
    asked = len(recommender.everyone) if all_users else len(ids)
    recall = recommender.choose_index(index.value, asked, k)
    if recall is not None:
        console.note(
            f"recall@{recall.k} against exact: {recall.share:.3f}, {recall.users:,} users; "
            f"index built in {recall.seconds:.1f} s" + ("" if recall.used else ", not used")
        )
    if out is None:
        _print(recommender, ids, k, as_json)
    else:
        users = recommender.everyone if all_users else recommender.users(ids)
        _write(recommender, users, out, k, recall, force, as_json)
    for remark in loaded.remarks:
        console.note(remark)
    if data is None and not loaded.same_data:
        console.note(f"{loaded.data.path} has changed since {run} was trained on it")
    items = f"{len(loaded.data.item_ids):,} items"
    if loaded.new_items:
        console.note(
            f"{loaded.new_items:,} of {items} have no training events: "
            "they are judged by their content alone"
        )
    if loaded.unknown_items:
        console.note(
            f"{loaded.unknown_items:,} of {items} have neither training events nor any content "
            "that this model reads: they are not recommended"
        )


def _write(
    recommender: Recommender,
    users: NDArray[np.int64],
    out: Path,
    k: int,
    recall: Recall | None,
    force: bool,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from cammsr_cli.ranking.recommendation_file import write_recommendations

    with console.progress_bar("users") as progress:
        written = write_recommendations(recommender, users, out, k, progress, force)
    if as_json:
        told = None if recall is None else asdict(recall)
        console.result_json({**asdict(written), "out": str(written.out), "recall": told})
    else:
        console.result(
            f"{written.out}: {written.rows:,} recommendations for {written.users:,} users out of "
            f"{written.items:,} items, {written.seconds:.1f} s "
            f"({written.users / written.seconds:,.0f} users/s)"
        )


def _print(recommender: Recommender, ids: list[str], k: int, as_json: bool) -> None:
    from dataclasses import asdict

    answers = {one: recommender.recommend(one, k) for one in ids}
    if as_json:
        console.result_json(
            [
                {"user": one, "recommendations": [asdict(item) for item in items]}
                for one, items in answers.items()
            ]
        )
    else:
        for one, items in answers.items():
            _show(one, items, recommender.run.model.streams)


def _show(user: str, items: list[Recommendation], streams: tuple[str, ...]) -> None:
    if not items:
        console.result(f"user {user}: nothing left to recommend: every item has been seen")
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


def _forward(item: Recommendation) -> str:
    if item.put_forward is None:
        return ""
    content = _cut(item.put_forward.content, 32)
    return f"{item.put_forward.modality}: {content}" if content else item.put_forward.modality


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
