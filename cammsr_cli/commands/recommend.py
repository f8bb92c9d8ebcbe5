"""`cammsr recommend`: the next items for a user, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    from cammsr_cli.ranking.recommend import Recommendation

EXAMPLES = [
    "cammsr recommend run --user user-0001",
    "cammsr recommend run --user user-0001 --user user-0002 --k 3",
    "cammsr recommend run --user user-0001 --json",
]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'cammsr train'.")] = Path("run"),
    user: Annotated[
        list[str] | None, typer.Option(help="User id, as in your files; repeatable.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")] = 10,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Allow items the user already has.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Data set, if not the one the run was trained on: a newer one, say."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend a user's next items, and say why.

    The columns named after id, text, image, ... are the shares of each in what lifts the item above
    the user's average item. 'Put forward' is the content that counts most for this user: show the
    picture, the clip, or the text.
    """
    from dataclasses import asdict

    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking.recommend import Recommender
    from cammsr_cli.run_folder import RunFolder, load_run

    if not user:
        raise UsageError("for whom? Name a user: --user ID", EXAMPLES[0])
    loaded = load_run(RunFolder(run), data, resolve_device(device))
    recommender = Recommender(loaded)
    answers = {one: recommender.recommend(one, k, not keep_seen) for one in user}
    if as_json:
        console.result_json(
            [
                {"user": one, "recommendations": [asdict(item) for item in items]}
                for one, items in answers.items()
            ]
        )
    else:
        for one, items in answers.items():
            _show(one, items, loaded.model.streams)
    if loaded.new_items:
        console.note(
            f"{loaded.new_items:,} of {len(loaded.data.item_ids):,} items have no training events: "
            "they are judged by their content alone"
        )


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
