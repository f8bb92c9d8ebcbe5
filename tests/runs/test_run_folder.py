"""The run folder: what is written comes back, and what does not fit is refused with the reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cammsr_cli.config import Config, ModelConfig, resolve
from cammsr_cli.data.corpus import Corpus
from cammsr_cli.data.dataset import DataSet, ModalityInfo
from cammsr_cli.data.dataset_write import ModalityVectors, write_dataset
from cammsr_cli.data.splits import leave_one_out
from cammsr_cli.errors import CammsrError
from cammsr_cli.files import CHECKSUMS, sha256_of
from cammsr_cli.ranking.full_ranking import item_tables
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run, read_catalogue, read_events
from cammsr_cli.runs.spec import build_model, describe, training_items
from cammsr_cli.runs.weights import load_weights
from cammsr_cli.training.sizing import fitted

CPU = torch.device("cpu")


def _data(
    path: Path, items: Sequence[str] = "abcde", fingerprint: str = "toy 1", **changed
) -> DataSet:
    """Two users, one for each half of the events; the last item is new to training."""
    n = len(items)
    corpus = Corpus(
        user_ids=["u", "v"],
        item_ids=list(items),
        fields={"title": list(items)},
        item_rows=list(range(n)),
        listed_rows=n,
        category_names=["x", "y"],
        category_indptr=np.arange(n + 1, dtype=np.int64),
        category_index=(np.arange(n) % 2).astype(np.int32),
        event_indptr=np.array([0, 4, 8], dtype=np.int64),
        event_item=np.array([2, 0, 1, 4, 1, 3, 2, 0], dtype=np.int32),
        event_time=np.arange(8, dtype=np.int64),
        event_part=np.array([0, 0, 1, 2] * 2, dtype=np.uint8),
        sources={},
        notes=[],
    )
    values = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    vectors = {
        "text": ModalityVectors(
            values, np.ones(n, dtype=np.bool_), ModalityInfo(3, "toy", fingerprint, ("title",))
        )
    }
    write_dataset(path, dataclasses.replace(corpus, **changed), vectors)
    return DataSet(path)


def _config(**changed) -> Config:
    sizes = {"width": 16, "layers": 1, "heads": 2, "length": 4, "dropout": 0.4}
    return Config(model=ModelConfig(**{**sizes, **changed}))


def _run(folder: Path, data: DataSet, config: Config | None = None) -> RunFolder:
    """A finished run with random weights."""
    config = config or _config()
    run = RunFolder(folder)
    spec = describe(data, config.model, "cammsr")
    run.begin(config, spec, [data.item_ids[i] for i in training_items(data)])
    torch.manual_seed(0)
    run.finish(build_model(spec, config.model).state_dict())
    return run


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return _data(tmp_path / "data.h5")


@pytest.fixture
def run(tmp_path: Path, data: DataSet) -> RunFolder:
    return _run(tmp_path / "my run", data)


def test_training_items_are_those_with_a_training_event(data: DataSet) -> None:
    assert training_items(data) == [0, 1, 2, 3]


def test_describe_by_hand(data: DataSet) -> None:
    spec = describe(data, ModelConfig(), "cammsr")
    assert spec.feature_dims == {"text": 3}
    assert spec.fingerprints == {"text": "toy 1"}
    assert spec.category_names == ["x", "y"]
    assert spec.num_ids == 4
    assert spec.repeat_share == 0
    assert not spec.repeats
    assert spec.data_content == data.content
    assert Path(spec.data_path).is_absolute()
    assert describe(data, ModelConfig(modalities=[]), "sasrec").feature_dims == {}


@pytest.mark.parametrize(("again", "kept"), [(0, False), (1, False), (2, True), (150, True)])
def test_seen_items_stay_from_one_repeat_in_a_hundred_targets_on(
    tmp_path: Path, again: int, kept: bool
) -> None:
    # Of 153 events of one user 151 are for training, and 150 of them are targets.
    item = np.where(np.arange(153) <= again, 0, np.arange(153)).astype(np.int32)
    data = _data(
        tmp_path / "many.h5",
        items=[f"i{one}" for one in range(153)],
        user_ids=["u"],
        event_indptr=np.array([0, 153]),
        event_item=item,
        event_time=np.arange(153),
        event_part=leave_one_out(np.array([0, 153])),
    )
    spec = describe(data, ModelConfig(), "cammsr")
    assert spec.repeat_share == again / 150
    assert spec.repeats == kept
    folder = RunFolder(tmp_path / "run")
    folder.begin(_config(), spec, [])
    assert folder.spec() == spec


def test_a_modality_that_is_not_there_is_refused(data: DataSet) -> None:
    with pytest.raises(CammsrError, match="no modality image, smell; it has: text"):
        describe(data, ModelConfig(modalities=["image", "text", "smell"]), "cammsr")


def test_a_model_of_nothing_is_refused(data: DataSet) -> None:
    with pytest.raises(CammsrError, match="without id and without any modality"):
        describe(data, ModelConfig(modalities=[], use_id=False), "cammsr")


def test_settings_and_spec_come_back(run: RunFolder, data: DataSet) -> None:
    assert run.exists
    assert run.finished
    assert run.config() == _config()
    assert run.spec() == describe(data, _config().model, "cammsr")
    assert run.item_ids() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", sorted(set(ModelConfig.model_fields) - {"modalities"}))
def test_every_model_setting_reaches_the_model(monkeypatch, data: DataSet, name: str) -> None:
    """The config alone decides: no default of the model's own is ever used."""
    given = {}
    monkeypatch.setattr("cammsr_cli.runs.spec.Cammsr", lambda *_, **sizes: given.update(sizes))
    config = ModelConfig()
    build_model(describe(data, config, "cammsr"), config)
    assert given[name] == getattr(config, name)


def test_a_loaded_run_is_the_model_that_was_saved(run: RunFolder, data: DataSet) -> None:
    loaded = load_run(run, None, CPU)
    torch.manual_seed(0)
    model = build_model(loaded.spec, run.config().model).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert not loaded.model.training
    assert loaded.new_items == 1
    assert loaded.catalogue.id_row_N.tolist() == [0, 1, 2, 3, -1]
    assert loaded.events.item_E.dtype == torch.int32
    assert loaded.events.item_E.tolist() == data.event_item.tolist()
    ours = item_tables(loaded.model, loaded.catalogue).target_NV
    assert torch.equal(ours, item_tables(model, loaded.catalogue).target_NV)


def test_sasrec_runs_come_back_too(tmp_path: Path, data: DataSet) -> None:
    config, _ = fitted(resolve("sasrec", None, [], {}), data, CPU)
    loaded = load_run(_run(tmp_path / "ids", data, config), None, CPU)
    assert loaded.model.streams == ("id",)
    assert loaded.catalogue.features == {}


def test_id_rows_follow_ids_not_positions(tmp_path: Path, data: DataSet) -> None:
    other = _data(tmp_path / "other.h5", items="xdcba")
    catalogue = read_catalogue(other, {"text": 3}, ["a", "b", "c", "d"])
    assert catalogue.id_row_N.tolist() == [-1, 3, 2, 1, 0]
    assert catalogue.features["text"].shape == (5, 3)
    assert catalogue.present["text"].all()


def test_events_come_as_they_are(data: DataSet) -> None:
    events = read_events(data, CPU)
    assert events.item_E.tolist() == [2, 0, 1, 4, 1, 3, 2, 0]
    assert events.time_E.tolist() == list(range(8))


def test_a_newer_data_set_with_more_items_is_welcome(tmp_path, run: RunFolder) -> None:
    newer = _data(tmp_path / "newer.h5", items="abcdefgh")
    loaded = load_run(run, newer.path, CPU)
    assert loaded.new_items == 4
    assert item_tables(loaded.model, loaded.catalogue).target_NV.shape[0] == 8


def test_an_unfinished_run_is_refused_with_the_command_that_goes_on(run: RunFolder) -> None:
    run.weights.unlink()
    assert not run.finished
    with pytest.raises(CammsrError, match="is not finished") as caught:
        load_run(run, None, CPU)
    assert "--resume" in (caught.value.hint or "")


@pytest.fixture
def old_run(run: RunFolder) -> RunFolder:
    """A run of a cammsr that wrote no checksums."""
    (run.path / CHECKSUMS).unlink()
    return run


@pytest.mark.parametrize("missing", ["config.json", "item_ids.json"])
def test_a_folder_that_is_no_run_is_refused(old_run: RunFolder, missing: str) -> None:
    (old_run.path / missing).unlink()
    with pytest.raises(CammsrError, match=f"not a run folder: it has no {missing}"):
        load_run(old_run, None, CPU)


DECIDING = ["config.json", "config.yaml", "item_ids.json", "model.safetensors"]


def test_files_that_decide_have_checksums_that_other_tools_can_check(run: RunFolder) -> None:
    lines = (run.path / CHECKSUMS).read_text().splitlines()
    assert lines == [f"{sha256_of(run.path / name)}  {name}" for name in DECIDING]
    assert load_run(run, None, CPU).remarks == []


@pytest.mark.parametrize("name", [*DECIDING, CHECKSUMS])
def test_a_changed_byte_is_refused_with_its_file_and_the_command_that_mends(
    run: RunFolder, name: str
) -> None:
    file = run.path / name
    content = file.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CammsrError, match=r"is damaged: ") as caught:
            load_run(run, None, CPU)
        assert str(run.path) in caught.value.message
        assert "cammsr train DATA.h5 --out" in (caught.value.hint or "")
        assert name in caught.value.message or name == CHECKSUMS


@pytest.mark.parametrize("name", ["config.yaml", "item_ids.json", "model.safetensors"])
def test_a_digest_that_is_missing_is_told(run: RunFolder, name: str) -> None:
    lines = (run.path / CHECKSUMS).read_text().splitlines(keepends=True)
    run.write_text(CHECKSUMS, "".join(line for line in lines if name not in line))
    with pytest.raises(CammsrError, match=f"does not list {name}"):
        load_run(run, None, CPU)


def test_an_old_run_without_checksums_is_read_and_told_of(old_run: RunFolder) -> None:
    (remark,) = load_run(old_run, None, CPU).remarks
    assert "without checksums" in remark
    assert str(old_run.path) in remark


def test_an_unfinished_run_is_checked_before_it_is_gone_on_with(run: RunFolder) -> None:
    run.weights.unlink()
    assert run.check() == []
    run.write_text("config.yaml", (run.path / "config.yaml").read_text().replace("0.4", "0.3"))
    with pytest.raises(CammsrError, match=r"damaged: config\.yaml has changed"):
        run.check()


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "nowhere")
    assert not folder.exists
    with pytest.raises(CammsrError, match="not a run folder"):
        load_run(folder, None, CPU)


@pytest.mark.parametrize("name", ["config.json", "item_ids.json"])
@pytest.mark.parametrize("content", [b"", b'{"format": 2', b"\xff\xfe"])
def test_damaged_json_is_told(old_run: RunFolder, name: str, content: bytes) -> None:
    (old_run.path / name).write_bytes(content)
    with pytest.raises(CammsrError, match=f"{name} is damaged"):
        load_run(old_run, None, CPU)


@pytest.mark.parametrize("content", ["[]", '{"format": 2}', '{"format": 2, "extra": 2}'])
def test_json_that_is_no_spec_is_told(run: RunFolder, content: str) -> None:
    (run.path / "config.json").write_text(content)
    with pytest.raises(CammsrError):
        run.spec()


def test_missing_settings_are_told(run: RunFolder) -> None:
    (run.path / "config.yaml").unlink()
    with pytest.raises(CammsrError, match=r"config\.yaml"):
        load_run(run, None, CPU)


@pytest.mark.parametrize("content", ["model: [1, 2", "model: {widht: 3}"])
def test_damaged_settings_are_told_with_their_file(old_run: RunFolder, content: str) -> None:
    (old_run.path / "config.yaml").write_text(content)
    with pytest.raises(CammsrError, match=r"config\.yaml"):
        load_run(old_run, None, CPU)


def test_another_format_is_refused_with_who_wrote_it(run: RunFolder) -> None:
    content = json.loads((run.path / "config.json").read_text())
    run.write_text("config.json", json.dumps({**content, "format": 99, "tool": "cammsr 9.9"}))
    with pytest.raises(CammsrError, match=r"format 99, written by cammsr 9.9.*reads format 8"):
        load_run(run, None, CPU)


@pytest.mark.parametrize("content", [b"", b"garbage" * 20, None])
def test_damaged_weights_are_told(old_run: RunFolder, content: bytes | None) -> None:
    weights = old_run.weights
    weights.write_bytes(weights.read_bytes()[:-10] if content is None else content)
    with pytest.raises(CammsrError, match="cannot be loaded into this run's model"):
        load_run(old_run, None, CPU)


def test_weights_of_another_model_are_told(run: RunFolder, data: DataSet) -> None:
    other = _config(width=32)
    model = build_model(describe(data, other.model, "cammsr"), other.model)
    with pytest.raises(CammsrError, match="cannot be loaded"):
        load_weights(model, run.weights)


def test_vectors_of_another_encoder_are_refused(tmp_path, run: RunFolder) -> None:
    other = _data(tmp_path / "other.h5", fingerprint="toy 2")
    with pytest.raises(CammsrError, match=r"vectors were made by toy 1, those of .* by toy 2"):
        load_run(run, other.path, CPU)


def test_a_data_set_that_lacks_the_modality_is_refused(tmp_path, run, data: DataSet) -> None:
    path = tmp_path / "bare.h5"
    corpus = Corpus(
        user_ids=["u"], item_ids=["a"], fields={"title": ["a"]}, item_rows=[0], listed_rows=1,
        category_names=[], category_indptr=np.zeros(2, dtype=np.int64),
        category_index=np.zeros(0, dtype=np.int32), event_indptr=np.array([0, 1]),
        event_item=np.zeros(1, dtype=np.int32), event_time=np.zeros(1, dtype=np.int64),
        event_part=np.zeros(1, dtype=np.uint8), sources={}, notes=[],
    )  # fmt: skip
    write_dataset(path, corpus, {})
    with pytest.raises(CammsrError, match="by nothing"):
        load_run(run, path, CPU)


def test_another_catalogue_is_refused(tmp_path, run: RunFolder) -> None:
    other = _data(tmp_path / "other.h5", items="vwxyz")
    with pytest.raises(CammsrError, match="only 0 of its 4 items") as caught:
        load_run(run, other.path, CPU)
    assert "--data" in (caught.value.hint or "")


def test_a_data_set_that_is_gone_is_told(run: RunFolder, data: DataSet) -> None:
    data.path.unlink()
    with pytest.raises(CammsrError, match="is not there any more") as caught:
        load_run(run, None, CPU)
    assert "--data" in (caught.value.hint or "")
