"""Settings: what wins over what, and what is said of those that are wrong."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from cammsr_cli.config import PRESETS, Config, ModelConfig, TrainingConfig, described, resolve
from cammsr_cli.errors import UsageError
from cammsr_cli.model.cammsr import Cammsr


def _file(folder: Path, text: str) -> Path:
    path = folder / "my settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_models() -> None:
    assert resolve(environment={}) == Config()


def test_later_sources_win(tmp_path: Path) -> None:
    file = _file(tmp_path, "model: {input_norm: dyt, width: 16, layers: 3, heads: 4}\n")
    environment = {"CAMMSR_MODEL__WIDTH": "32", "CAMMSR_MODEL__LAYERS": "4"}
    config = resolve("sasrec", file, ["model.width=48"], environment)
    assert config.model.width == 48  # command line over environment, file
    assert config.model.layers == 4  # environment over file
    assert config.model.heads == 4  # file over default
    assert config.model.input_norm == "dyt"  # file over preset
    assert config.model.modalities == []  # preset over default
    assert config.training == TrainingConfig(category_weight=0.0)


def test_the_last_of_two_assignments_wins() -> None:
    given = ["model.width=16", "model.width=32"]
    assert resolve(assignments=given, environment={}).model.width == 32


def test_the_process_environment_is_read(monkeypatch) -> None:
    monkeypatch.setenv("CAMMSR_TRAINING__LEARNING_RATE", "5e-4")
    assert resolve().training.learning_rate == 5e-4


def test_other_variables_are_left_alone() -> None:
    environment = {"CAMMSR_CACHE_DIR": "/x", "CAMMSR_DEBUG": "1", "MODEL__WIDTH": "8", "A__B": "1"}
    assert resolve(environment=environment) == Config()


def test_values_are_read_as_yaml() -> None:
    config = resolve(
        assignments=[
            "model.modalities=[text, image]",
            "model.time_gaps=false",
            "training.learning_rate=3.3e-04",
            "model.input_norm=layernorm",
        ],
        environment={},
    )
    assert config.model.modalities == ["text", "image"]
    assert config.model.time_gaps is False
    assert config.training.learning_rate == 3.3e-4
    assert config.model.input_norm == "layernorm"


def test_sasrec_is_the_id_alone() -> None:
    model = resolve("sasrec", environment={}).model
    assert model.modalities == []
    assert model.input_norm == "none"
    assert model.experts == 0
    off = (model.time_gaps, model.relative_positions, model.item_weights, model.repeats)
    assert not any(off)


def test_paper_is_the_model_as_published() -> None:
    """Without what is ours, and with all three of its losses."""
    config = resolve("paper", environment={})
    model, training = config.model, config.training
    ours = (model.content_init, model.fused, model.time_gaps, model.relative_positions)
    assert not any((*ours, model.item_weights, model.repeats))
    assert model.neighbours == model.id_dropout == 0
    assert (model.input_norm, model.router, model.expert_inputs) == ("dyt", "attention", "all")
    assert (model.experts, model.expert_hidden, model.width, model.length) == (4, 4, 64, 50)
    assert training.branch_share == 0
    assert training.swap_weight > 0
    assert training.category_weight > 0
    assert training.swap_rate == 0.5


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_not_changed_by_what_is_laid_over_them(preset: str) -> None:
    before = resolve(preset, environment={})
    resolve(preset, None, ["model.width=8", "model.modalities=[x]", "training.epochs=1"], {})
    assert resolve(preset, environment={}) == before


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'bert4rec'.*cammsr, paper, sasrec"):
        resolve("bert4rec", environment={})


def test_an_unknown_key_comes_with_a_suggestion() -> None:
    with pytest.raises(
        UsageError, match=r"'model\.widht' \(did you mean model\.width\?\)"
    ) as caught:
        resolve(assignments=["model.widht=8"], environment={})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "source",
    [
        {"environment": {"CAMMSR_MODEL__WIDHT": "8"}},
        {"environment": {"CAMMSR_MODLE__WIDTH": "8"}},
        {"assignments": ["modle.width=8"], "environment": {}},
    ],
)
def test_unknown_keys_are_refused_wherever_they_come_from(source) -> None:
    with pytest.raises(UsageError, match="there is no setting"):
        resolve(**source)


def test_unknown_keys_of_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.with"):
        resolve(file=_file(tmp_path, "model: {with: 3}\n"), environment={})


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    file = _file(tmp_path, "model: {dropout: 1.5, input_norm: batch}\n")
    with pytest.raises(UsageError) as caught:
        resolve(file=file, assignments=["training.epoch=3", "model.width=4"], environment={})
    for said in (
        "model.dropout = 1.5",
        "model.input_norm = 'batch'",
        "training.epochs",
        "model.width",
    ):
        assert said in caught.value.message


def test_mistakes_of_all_sources_are_told_at_once_each_on_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(
            "camsr",
            tmp_path / "absent.yaml",
            ["width=3", "model.modalities=[text", "training.dropout=0.1", "modle.layer=1"],
            {"CAMMSR_TRAINING__EPOCH": "3"},
        )
    first, *lines = caught.value.message.split("\n")
    assert first == "settings: 7 mistakes"
    assert [line.strip() for line in lines] == [
        "unknown preset 'camsr' (did you mean cammsr?); there are: cammsr, paper, sasrec",
        f"cannot read the config file {tmp_path / 'absent.yaml'}: No such file or directory",
        "cannot read the setting 'width=3'; write section.key=value, for example model.width=3",
        "cannot read the value of the setting 'model.modalities=[text'",
        "there is no setting 'training.epoch' (did you mean training.epochs?)",
        "there is no setting 'training.dropout' (did you mean model.dropout?)",
        "there is no setting 'modle.layer' (did you mean model.layers?)",
    ]


def test_a_name_like_none_gets_no_suggestion() -> None:
    with pytest.raises(UsageError, match=r"'model\.xyz' \(settings begin with model"):
        resolve(assignments=["model.xyz=1"], environment={})


def test_heads_that_do_not_divide_width_are_told_with_the_other_faults() -> None:
    given = ["model.width=64", "model.heads=3"]
    given += ["model.layers=0", "model.widht=8", "training.epochs=0"]
    with pytest.raises(UsageError) as caught:
        resolve(assignments=given, environment={})
    for said in ("model.heads = 3", "model.layers = 0", "'model.widht'", "training.epochs = 0"):
        assert said in caught.value.message


@pytest.mark.parametrize(
    "wrong",
    [
        "model.width=7", "model.layers=0", "model.heads=0", "model.length=1", "model.dropout=1",
        "model.dropout=-0.1", "model.id_dropout=1", "model.experts=-1", "model.input_norm=rms",
        "model.width=wide", "training.epochs=0", "training.patience=0", "training.batch_size=-1",
        "training.learning_rate=0", "training.weight_decay=-1", "training.clip_norm=0",
        "training.swap_rate=1.1", "training.swap_temperature=0", "training.keep_checkpoints=0",
        "training.seed=-1", "training.learning_rate=.nan", "training.category_weight=-0.1",
        "training.learning_rate=.inf", "training.seed=2147483648", "model.neighbours=-1",
        "model.expert_hidden=0", "model.expert_inputs=both", "model.router=none",
        "model.guidance=true", "training.swap_weight=-1",
    ],
)  # fmt: skip
def test_limits(wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong.partition("=")[0].replace(".", r"\.")):
        resolve(assignments=[wrong], environment={})


def test_heads_must_divide_width() -> None:
    with pytest.raises(
        UsageError, match=r"model\.heads = 3.*model\.width 64 is not a multiple of it"
    ):
        resolve(assignments=["model.heads=3", "model.width=64"], environment={})
    assert resolve(assignments=["model.heads=3", "model.width=48"], environment={})


@pytest.mark.parametrize("wrong", ["width=3", "model.width", "model.=3", "=3", ""])
def test_an_assignment_of_another_form_is_told_how(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"section\.key=value"):
        resolve(assignments=[wrong], environment={})


def test_a_value_that_is_not_yaml_is_told() -> None:
    with pytest.raises(UsageError, match=r"model\.modalities=\[text"):
        resolve(assignments=["model.modalities=[text"], environment={})


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the config file .*absent"):
        resolve(file=tmp_path / "absent.yaml", environment={})
    with pytest.raises(UsageError, match="is not YAML"):
        resolve(file=_file(tmp_path, "model: [1, 2\n"), environment={})
    with pytest.raises(UsageError, match="must hold the sections"):
        resolve(file=_file(tmp_path, "width: 3\n"), environment={})
    with pytest.raises(UsageError, match="must hold the sections"):
        resolve(file=_file(tmp_path, "- model\n"), environment={})
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(UsageError, match="is not YAML"):
        resolve(file=binary, environment={})


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert resolve(file=_file(tmp_path, "# nothing yet\n"), environment={}) == Config()


@pytest.mark.parametrize("text", ["model:\n", "model:\ntraining: {epochs: 3}\n", "training:\n"])
def test_an_empty_section_changes_nothing(tmp_path: Path, text: str) -> None:
    config = resolve(file=_file(tmp_path, text), environment={})
    assert config.model == ModelConfig()
    assert config.training == TrainingConfig(epochs=3 if "epochs" in text else 200)


def test_resolved_settings_come_back_from_their_own_file(tmp_path: Path) -> None:
    config = resolve("sasrec", None, ["training.learning_rate=7e-5", "model.experts=0"], {})
    file = _file(tmp_path, yaml.safe_dump(config.model_dump()))
    assert resolve(file=file, environment={}) == config


OF_THE_DATA = {"separate_bias"}
"""Arguments of the model that no setting decides, but the training data."""


def test_model_settings_are_the_model_s_own_arguments() -> None:
    arguments = inspect.signature(Cammsr).parameters.values()
    keywords = {p.name for p in arguments if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(ModelConfig.model_fields) - {"modalities"} == keywords - OF_THE_DATA


def test_every_setting_is_described_with_its_default() -> None:
    found = {name: (default, text) for name, default, text in described()}
    assert set(found) == {
        *(f"model.{name}" for name in ModelConfig.model_fields),
        *(f"training.{name}" for name in TrainingConfig.model_fields),
    }
    assert all(text.endswith(".") for _, text in found.values())
    assert found["model.experts"][0] == "0"


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().model.width = 3


def test_the_model_s_own_defaults_are_those_of_the_settings() -> None:
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(Cammsr).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in OF_THE_DATA
    }
    settings = ModelConfig().model_dump(exclude={"modalities"})
    left_open = {name for name, value in settings.items() if value is None}
    assert left_open == {"width", "heads", "length", "dropout"}  # to the data
    assert {n: v for n, v in own.items() if n not in left_open} == {
        n: v for n, v in settings.items() if n not in left_open
    }
