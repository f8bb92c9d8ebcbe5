"""A text model's folder may name Python code; none but that of sentence-transformers is run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cammsr_encoders.protocol import WeightsUnavailable
from cammsr_encoders.text import TextEncoder
from safetensors.numpy import save_file


def _model(folder: Path, modules: object) -> Path:
    """A folder with a list of modules, and code that leaves a trace if it is run."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "canary.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'sang')!r}).touch()\nclass Canary: pass\n"
    )
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("canary.Canary", "'canary.Canary'"),
        ("sentence_transformersx.Canary", "not of sentence-transformers"),
        (["sentence_transformers.models.Pooling"], "not of sentence-transformers"),
    ],
)
def test_code_of_the_folder_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: object, told: str
) -> None:
    folder = _model(tmp_path / "model", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    monkeypatch.syspath_prepend(str(folder))
    encoder = TextEncoder(str(folder))
    for use in (lambda: encoder.fingerprint, lambda: encoder.dim, lambda: encoder.encode(["x"])):
        with pytest.raises(WeightsUnavailable, match=told):
            use()
    assert not (folder / "sang").exists()


@pytest.mark.parametrize("modules", [{"a": 1}, [1], 3, None])
def test_a_list_of_modules_that_is_none_is_told(tmp_path: Path, modules: object) -> None:
    folder = _model(tmp_path / "model", modules)
    with pytest.raises(WeightsUnavailable, match="is no list of modules"):
        _ = TextEncoder(str(folder)).fingerprint
