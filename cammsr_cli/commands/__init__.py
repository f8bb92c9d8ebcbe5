"""One module per subcommand: it parses the options, calls one function and prints the result.

Each module has `command` (the Typer function of the subcommand), `EXAMPLES` (shown at the end of
its help, and run by the tests) and `HELP_EPILOG`.
"""
