"""Hyperparameter search: the command `cammsr tune`. It uses the validation split only."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cammsr_cli.config import Config, described
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError, UsageError, closest, first_line
from cammsr_cli.files import written_whole
from cammsr_cli.locks import in_use, only_writer
from cammsr_cli.training.reports import EpochReport
from cammsr_cli.training.train import Listener, train

if TYPE_CHECKING:
    import optuna

DEFAULT_SEARCH = (
    "training.learning_rate=0.0003..0.003",
    "model.dropout=0.1..0.6",
    "model.id_dropout=0.0..0.5",
    "model.length=50,100,200",
    "training.batch_size=32,64,128,256,512",
    "training.category_weight=0.01..1.0",
)
"""The default search space."""

JOURNAL = "trials.log"

FAILED = "failed"
"""Attribute of a failed trial: the error message."""


@dataclass(frozen=True)
class Range:
    """Search space of one setting.

    Attributes:
        name: "section.key".
        low: Least value of a range; None for a choice.
        high: Largest value of a range; None for a choice.
        choices: Values to choose from; empty for a range.
    """

    name: str
    low: float | None
    high: float | None
    choices: tuple[Any, ...] = ()

    @staticmethod
    def parse(text: str) -> Range:
        """Read "section.key=low..high" or "section.key=a,b,c".

        Raises:
            UsageError: The text has neither form, or there is no such setting.
        """
        name, _, values = text.partition("=")
        known = [setting for setting, _, _ in described()]
        if name not in known:
            near = closest(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else "see: cammsr train --list-settings"
            raise UsageError(f"cannot search '{text}': there is no setting '{name}' ({advice})")
        if ".." in values:
            ends = [_number(end) for end in values.split("..", 1)]
            if None in ends or not ends[0] < ends[1]:
                raise UsageError(f"cannot search '{text}': write low..high, as 0.1..0.6")
            return Range(name, *ends)
        try:  # choices may be lists: [text,image],[text]
            choices = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError as error:
            raise UsageError(f"cannot search '{text}': {first_line(error)}") from error
        if len(choices) < 2:
            raise UsageError(f"cannot search '{text}': write low..high, or two values and more")
        # Optuna's choices must be numbers or strings.
        plain = (one if isinstance(one, str | int | float) else _as_yaml(one) for one in choices)
        return Range(name, None, None, tuple(plain))

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The least and the largest value, or all choices: if these are valid, all values are."""
        return self.choices or (self.low, self.high)

    def assigned(self, value: Any) -> str:
        """The assignment of a value in the syntax of `--set`."""
        return f"{self.name}={value if isinstance(value, str) else _as_yaml(value)}"

    def suggest(self, trial: optuna.Trial) -> Any:
        """Suggest a value; on a log scale if the range spans a factor of ten or more."""
        if self.low is None or self.high is None:
            return trial.suggest_categorical(self.name, self.choices)
        log = self.low > 0 and self.high >= 10 * self.low
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=log)
        return trial.suggest_float(self.name, self.low, self.high, log=log)


def _as_yaml(value: Any) -> str:
    """Write a value as YAML, in one line.

    >>> _as_yaml(["text", "image"]), _as_yaml(0.5), _as_yaml(None)
    ('[text, image]', '0.5', 'null')
    """
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).partition("\n")[0]


def _number(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    if isinstance(value, str):  # YAML reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Attributes:
        number: Counted from 0.
        ndcg: Best validation NDCG@10; None if the trial was pruned or failed.
        state: "done", "given up" (pruned) or "failed".
        settings: The values that were tried.
    """

    number: int
    ndcg: float | None
    state: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """Results of a search so far.

    Attributes:
        best: The best trial.
        trials: All trials, best first; those without a result last.
        settings: File with the best settings, for `cammsr train --config`.
        run: The best trial's run folder.
    """

    best: Trial
    trials: list[Trial]
    settings: Path
    run: Path


def tune(
    data: Path,
    out: Path,
    settings: Callable[[Sequence[str]], Config],
    search: Sequence[Range],
    *,
    preset: str,
    trials: int,
    minutes: float | None,
    world: World,
    note: Callable[[str], None],
) -> Found:
    """Train one trial after another; choose the values of each from the earlier results.

    Values come from a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). A trial
    that is worse than the median of the others at the same epoch is pruned. `out` keeps the log of
    all trials. A search that was stopped continues from this log and runs the remaining trials.

    Args:
        data: The data set.
        out: Folder of the search.
        settings: Makes the full configuration from assignments "section.key=value".
        search: The search space.
        preset: Name of the preset, for the run folders.
        trials: Total number of trials, including earlier ones.
        minutes: Time limit after which no trial is started; None for no limit.
        world: Device to train on; one process.
        note: Receives progress messages.

    Raises:
        CammsrError: The extra `tune` is not installed, no trial was completed, the folder holds a
            different search, or another process is writing to it.
        UsageError: `out` holds something other than a search, or a searched value is invalid.
    """
    if find_spec("optuna") is None:
        raise CammsrError(
            "'cammsr tune' needs optuna, which is not installed",
            "Install it: pip install 'cammsr[tune]'",
        )
    if world.size > 1:
        raise UsageError("'cammsr tune' trains in one process: start it without torchrun")
    least = [one.assigned(one.extremes[0]) for one in search]
    for one in search:  # report errors before anything is written
        for value in one.extremes:
            settings([*least, one.assigned(value)])
    chosen = {
        "content": DataSet(data).content,
        "settings": f"{preset} {json.dumps(settings([]).model_dump(), sort_keys=True)}",
        "search": [f"{one.name}={one.choices or (one.low, one.high)}" for one in search],
    }
    if in_use(out) and not (out / JOURNAL).is_file():
        raise UsageError(
            f"{out} is there already and holds no search", "Choose another folder: --out FOLDER"
        )
    with only_writer(out, folder=True):
        study = _study(out, chosen, settings([]).training.seed)
        began = time.monotonic()
        while len(_ended(study)) < trials:
            if minutes is not None and time.monotonic() - began > minutes * 60:
                note(f"{minutes:g} minutes are over")
                break
            trial = study.ask()
            values = {one.name: one.suggest(trial) for one in search}
            words = " ".join(
                f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in values.items()
            )
            note(f"trial {trial.number}: {words}")
            config = settings([one.assigned(values[one.name]) for one in search])
            _run(study, trial, data, out, config, preset, world, note)
        return _found(study, out)


def _study(out: Path, chosen: Mapping[str, Any], seed: int) -> optuna.Study:
    """Create the study in the folder, or load it to continue the search."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(out / JOURNAL))),
        study_name="cammsr",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
    )
    differs = {
        "content": "is of another data set",
        "settings": "was begun with other settings",
        "search": "is over other values",
    }
    for name, value in chosen.items():
        if study.user_attrs.get(name, value) != value:
            raise CammsrError(
                f"the search in {out} {differs[name]}: its trials cannot be compared with new ones",
                "Go on as it was begun, or choose another folder: --out FOLDER",
            )
        study.set_user_attr(name, value)
    # Each start needs its own random numbers: with the same ones, it would try the same values.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
    return study


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have ended; killed trials do not count."""
    return [
        one
        for one in study.get_trials(deepcopy=False)
        if one.state.name in ("COMPLETE", "PRUNED") or FAILED in one.user_attrs
    ]


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    data: Path,
    out: Path,
    config: Config,
    preset: str,
    world: World,
    note: Callable[[str], None],
) -> None:
    """Train one trial and report it to the study; keep only the best trial's run folder."""
    import optuna

    folder = _folder(out, trial.number)
    shutil.rmtree(folder, ignore_errors=True)

    def epoch(report: EpochReport) -> None:
        trial.report(report.ndcg, report.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    listener = Listener(lambda _: None, epoch, lambda _: None, note)
    try:
        outcome = train(data, folder, config, preset=preset, world=world, listener=listener)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        note(f"trial {trial.number}: given up, worse than most at this epoch")
    except CammsrError as error:  # it diverged or ran out of memory; other trials may not
        trial.set_user_attr(FAILED, error.message)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        note(f"trial {trial.number}: failed: {error.message}")
    else:
        study.tell(trial, outcome.best_ndcg)
        note(f"trial {trial.number}: NDCG@10 {outcome.best_ndcg:.4f}")
    best = _folder(out, study.best_trial.number) if _complete(study) else None
    for other in out.glob("trial-*"):
        if other != best:
            shutil.rmtree(other)


def _complete(study: optuna.Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in _ended(study))


def _folder(out: Path, number: int) -> Path:
    return out / f"trial-{number}"


def _found(study: optuna.Study, out: Path) -> Found:
    if not _complete(study):
        failed = [one.user_attrs[FAILED] for one in _ended(study) if FAILED in one.user_attrs]
        raise CammsrError(
            f"no trial of the search in {out} has come to an end"
            + (f"; the last one failed: {failed[-1]}" if failed else ""),
            "Search other values: --search" if failed else "Give it longer",
        )
    names = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed"}
    trials = [
        Trial(
            one.number,
            one.value if one.state.name == "COMPLETE" else None,
            names.get(one.state.name, one.state.name.lower()),
            one.params,
        )
        for one in study.get_trials(deepcopy=False)
    ]
    trials.sort(key=lambda one: -1.0 if one.ndcg is None else one.ndcg, reverse=True)
    run = _folder(out, trials[0].number)
    settings = out / "best.yaml"
    with written_whole(settings) as partial:
        shutil.copyfile(run / "config.yaml", partial)
    return Found(trials[0], trials, settings, run)
