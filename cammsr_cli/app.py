"""The Typer app: registers the commands, turns exceptions into messages and exit codes.

Exit codes: 0 success, 1 failure, 2 wrong usage or settings, 130 interrupted,
143 ended by SIGTERM.

This module imports no large package, because `cammsr --help` must be fast. Each command imports
torch, polars and other packages when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from cammsr_cli import __version__, console
from cammsr_cli.commands import (
    doctor,
    encoders,
    evaluate,
    export,
    info,
    merge,
    prepare,
    recommend,
    runs,
    train,
    tune,
)
from cammsr_cli.devices import is_out_of_memory
from cammsr_cli.errors import CammsrError, Terminated, first_line

INTERRUPTED = 130
TERMINATED = 143

_ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])
"""Base class of the errors that Typer reports itself; Typer has no public name for it."""


class _Group(TyperGroup):
    """A command group whose failures are messages, not tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CammsrError as error:
            console.report_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            console.note("interrupted")
            by_term = isinstance(error, Terminated)
            raise typer.Exit(TERMINATED if by_term else INTERRUPTED) from None
        except (typer.Exit, typer.Abort, _ClickException, BrokenPipeError):
            raise
        except OSError as error:
            if error.errno is None:
                console.report_fault(error)
            else:  # the system refuses: the disk is full, a folder is not writable
                where = f": {error.filename}" if error.filename else ""
                console.report_error(CammsrError(f"{error.strerror}{where}"))
            raise typer.Exit(1) from None
        except Exception as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                console.report_error(
                    CammsrError(
                        f"memory gave out: {first_line(error)}",
                        "Use a device with more of it, such as --device cpu; or make the model "
                        "smaller: --set model.width=32",
                    )
                )
            else:
                console.report_fault(error)
            raise typer.Exit(1) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # from polars, not an Exception
                raise
            console.report_fault(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    name="cammsr",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Recommends the next item from what items say, look like and show.",
    epilog="Start here: cammsr prepare --help",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"cammsr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


for _module in (prepare, train, tune, evaluate, recommend, export, runs, info, merge, doctor):
    _name = _module.__name__.rpartition(".")[2]
    app.command(_name, epilog=_module.HELP_EPILOG)(_module.command)
app.add_typer(encoders.app, name="encoders", epilog=encoders.HELP_EPILOG)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Exit at once during an import; otherwise raise KeyboardInterrupt as Python does.

    During an import, the C code of torch and numpy may suppress an exception or crash because of
    it. Exiting at once loses no work: commands import before they work.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            console.note("interrupted")
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Run the tool."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if ignored, as by nohup
        signal.signal(signal.SIGINT, _interrupt)
    console.write_what_can_be_written()
    app()
