"""The tool in a process that starts in a moment: forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("cammsr_cli.commands.train", "cammsr_cli.training.train"),
        *(
            "cammsr_cli.commands.prepare",
            "cammsr_cli.prepare.run",
            "cammsr_encoders.image",
            "timm",
        ),
    ]
)


def start_quickly(
    arguments: list[object], said: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start the tool; what it says goes to the file `said`, variables are added to its own."""
    told = [str(one) for one in arguments]
    process = _CONTEXT.Process(target=_run, args=(told, said, dict(environment or {})))
    process.start()
    return process


def _run(arguments: list[str], said: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from cammsr_cli.app import main

    with said.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = ["cammsr", *arguments]
    main()
