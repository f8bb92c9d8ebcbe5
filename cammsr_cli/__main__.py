"""`python -m cammsr_cli` is `cammsr`."""

from cammsr_cli.app import main

if __name__ == "__main__":
    main()
