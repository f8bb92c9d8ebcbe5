"""`cammsr encoders`: list, describe, check and create encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.errors import CammsrError, UsageError

EXAMPLES = [
    "cammsr encoders",
    "cammsr encoders list --json",
    "cammsr encoders info video",
    "cammsr encoders check image=,size=96",
    "cammsr encoders new smell --out my-encoder",
]
HELP_EPILOG = epilog(EXAMPLES)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Spec = Annotated[
    str,
    typer.Argument(
        metavar="NAME[=MODEL][,option=value]",
        help="The encoder, with model and options as for prepare --encoder.",
    ),
]

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def command(context: typer.Context, as_json: AsJson = False) -> None:
    """List, explain, check and start encoders.

    An encoder is a plugin: any installed package can bring one. To write one begin with
    "cammsr encoders new NAME". Alone, this lists those that are installed.
    """
    if context.invoked_subcommand is None:
        list_encoders(as_json)
    elif as_json:
        raise UsageError(
            "--json stands before the subcommand",
            f"Write it after: cammsr encoders {context.invoked_subcommand} --json",
        )


@app.command("list", epilog=epilog(EXAMPLES[:2]))
def list_encoders(as_json: AsJson = False) -> None:
    """List the installed encoders.

    Broken ones stand there with the reason, and so do two of one name.
    """
    from dataclasses import asdict

    from cammsr_cli.plugins.registry import find_encoders

    found = find_encoders()
    if as_json:
        console.result_json([asdict(entry) for entry in found])
        return
    console.result_table(
        [
            ("encoder", False),
            ("modality", False),
            ("reads", False),
            ("package", False),
            ("state", False),
        ],
        [
            [
                entry.name,
                entry.modality or "",
                ", ".join(entry.fields),
                f"{entry.distribution} {entry.version}",
                "ready" if entry.broken is None else f"broken: {entry.broken}",
            ]
            for entry in found
        ],
    )


@app.command("info", epilog=epilog(EXAMPLES[2:3]))
def info(spec: Spec, as_json: AsJson = False) -> None:
    """Show what an encoder is: fields, options, vector, weights.

    Nothing is downloaded for it. What weights on a model hub would tell is left out until they
    are on this machine.
    """
    from dataclasses import asdict

    from cammsr_cli.plugins.encoder_info import encoder_facts
    from cammsr_cli.plugins.registry import EncoderSpec

    facts = encoder_facts(EncoderSpec.parse(spec))
    if as_json:
        shown = asdict(facts)
        console.result_json({**shown.pop("entry"), **shown})
        return
    entry = facts.entry
    rows = {
        "encoder": entry.name,
        "what it is": facts.about,
        "package": f"{entry.distribution} {entry.version} ({entry.target})",
        "modality": entry.modality or "",
        "reads": ", ".join(entry.fields),
        "model": facts.model,
        "weights": facts.weights or "",
        "vector": "" if facts.dim is None else f"{facts.dim:,} numbers",
        "fingerprint": facts.fingerprint or "",
        "not known yet": facts.missing or "",
    }
    console.result_table(
        [("what", False), ("", False)], [[name, shown] for name, shown in rows.items() if shown]
    )
    if facts.options:
        console.result_table(
            [("option", False), ("default", False), ("meaning", False)],
            [
                [one.name, "must be given" if one.default is None else one.default, one.help]
                for one in facts.options
            ],
        )


@app.command("check", epilog=epilog(EXAMPLES[3:4]))
def check(
    spec: Spec,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
    ] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check that an encoder does what every encoder must do.

    The real encoder with its real model is tried on small items made on the spot: texts, pictures
    and clips with sound; or on those that it offers. The exit code is 1 if a check fails.
    """
    from dataclasses import asdict

    from cammsr_encoders.contract import REFERENCE

    from cammsr_cli.plugins.encoder_check import check_encoder
    from cammsr_cli.plugins.registry import EncoderSpec

    found = []
    for one in check_encoder(EncoderSpec.parse(spec), device):
        found.append(one)
        if not as_json:
            console.result(f"{'ok' if one.fault is None else 'FAILED':8}{one.says}")
            if shown := one.fault or one.note:
                console.result(f"        {shown}")
    if as_json:
        console.result_json([{**asdict(one), "passed": one.fault is None} for one in found])
    failed = [one for one in found if one.fault is not None]
    if failed:
        raise CammsrError(
            f"encoder {spec} fails {len(failed)} of {len(found)} checks",
            f"what is asked of an encoder is told by: {REFERENCE}",
        )


@app.command("new", epilog=epilog(EXAMPLES[4:]))
def new(
    name: Annotated[str, typer.Argument(help="What the encoder is to be called.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write into.", metavar="FOLDER", show_default="cammsr-NAME"),
    ] = None,
) -> None:
    """Start an encoder of your own, as a package.

    It installs, works, and passes its tests as it is. Nothing is overwritten.
    """
    from cammsr_cli.plugins.template import write_plugin

    folder = write_plugin(name, out)
    console.result(str(folder))
    console.next_command("pip install --editable", folder, f"&& cammsr encoders check {name}")
