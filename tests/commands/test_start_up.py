"""Starting the tool is quick, because nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def best_of(runs: int, *arguments: str) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - began

    return min(once() for _ in range(runs))


def test_help_takes_little_longer_than_python() -> None:
    bare = best_of(7, "-c", "pass")
    assert best_of(7, "-m", "cammsr_cli", "--help") - bare < 0.3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, cammsr_cli.app; "
        "print([m for m in ('torch', 'polars', 'numpy', 'timm', 'transformers', 'h5py', "
        "'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_listing_encoders_imports_no_model_library() -> None:
    code = """
import sys
from cammsr_cli.app import app
app(["encoders", "list"], standalone_mode=False)
heavy = ("torch", "polars", "timm", "transformers", "sentence_transformers", "av", "h5py")
sys.stderr.write(repr([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "image" in done.stdout
    assert done.stderr == "[]"


@pytest.mark.parametrize("importing", [True, False])
def test_ctrl_c_ends_the_tool_though_what_is_imported_drops_it(
    tmp_path: Path, importing: bool
) -> None:
    drops = "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n    pass\n"
    (tmp_path / "drops_it.py").write_text(f"import os, signal\n{drops}")
    code = f"""
import os, signal, sys
from cammsr_cli import app
@app.app.command("odd")
def odd():
    if {importing}:
        import drops_it
    else:
        os.kill(os.getpid(), signal.SIGINT)
    print("went on")
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background
sys.argv = ["cammsr", "odd"]
app.main()
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
