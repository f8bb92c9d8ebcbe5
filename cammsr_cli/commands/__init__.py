"""One file a subcommand: options in, one plain function call, result out.

Each module has `command` (the Typer function, named after the subcommand), `EXAMPLES` (shown at
the end of its help, run by the tests) and `HELP_EPILOG`.
"""
