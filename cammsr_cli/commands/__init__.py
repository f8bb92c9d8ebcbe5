"""One file a subcommand: options in, one plain function call, result out."""
