"""The peers' environments: each library with what it needs, and torch in the version we run on.

    python -m benchmarks.peers.environments FOLDER

makes them all (about 6 GB and three minutes each). One that is there is left as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

REQUIREMENTS = {
    "rectools": ("rectools[torch]==0.19.0",),
    # RecBole 1.2.1 names types that NumPy 2 took away and fills tables as pandas 3 forbids.
    "recbole": ("recbole==1.2.1", "numpy==1.26.4", "pandas==2.2.3"),
}
"""Peer to what is installed for it, torch aside."""


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made if need be.

    Args:
        peer: A key of `REQUIREMENTS`.
        folder: Where the environments are.

    Raises:
        subprocess.CalledProcessError: The environment cannot be made.
    """
    environment = folder.resolve() / peer
    python = environment / "bin" / "python"
    wanted = "\n".join([*REQUIREMENTS[peer], f"torch=={version('torch')}"])
    installed = environment / "requirements.txt"
    if not installed.is_file() or installed.read_text(encoding="utf-8") != wanted:
        print(f"installing {peer} in {environment}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *wanted.split("\n")]
        subprocess.run(pip, check=True)
        installed.write_text(wanted, encoding="utf-8")
    return python


def main() -> None:
    """Make all environments and print their interpreters."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for peer in REQUIREMENTS:
        print(python_of(peer, folder))


if __name__ == "__main__":
    main()
