"""Checkpoints: everything comes back, and nothing in one is ever run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from cammsr_cli.core.model import Cammsr
from cammsr_cli.errors import CammsrError
from cammsr_cli.training.checkpoints import (
    Progress,
    TrainingState,
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def _training(seed: int = 0, width: int = 16, progress: Progress | None = None) -> TrainingState:
    torch.manual_seed(seed)
    model, averaged = (
        Cammsr(6, {"text": 4}, 0, width=width, layers=1, length=4, dropout=0.3) for _ in range(2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return TrainingState(model, averaged, optimizer, progress or Progress(step=1))


def _step(state: TrainingState) -> float:
    """A step that depends on weights, optimiser state and random numbers."""
    model, optimizer = state.model, state.optimizer
    optimizer.zero_grad()
    assert model.id_table is not None
    noisy = torch.nn.functional.dropout(model.id_table.weight, 0.5) + torch.randn(6, 16)
    loss = noisy.square().sum()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    state = _training(progress=Progress(epoch=2, step=7, best=0.25, best_epoch=1, best_step=4))
    _step(state)
    save_checkpoint(tmp_path, state)
    straight = [_step(state) for _ in range(3)]

    other = _training(seed=5)
    torch.randn(100)
    load_checkpoint(checkpoint_path(tmp_path, 7), other)
    assert other.progress == state.progress
    assert [_step(other) for _ in range(3)] == straight
    for ours, theirs in ((state.model, other.model), (state.averaged, other.averaged)):
        for name, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], value), name


def test_weights_travel_with_the_measured_columns(tmp_path: Path) -> None:
    state = _training()
    state.model.projections[0].measure(torch.randn(30, 4) * 5 + 2)
    save_checkpoint(tmp_path, state)
    other = _training(seed=1)
    load_checkpoint(checkpoint_path(tmp_path, 1), other)
    for name in ("mean", "scale"):
        theirs, ours = (getattr(s.model.projections[0], name) for s in (other, state))
        assert torch.equal(theirs, ours)


class _Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_no_code_in_a_checkpoint_is_run(tmp_path: Path, how: str) -> None:
    state = _training()
    save_checkpoint(tmp_path, state)
    mark, file = tmp_path / "it ran", checkpoint_path(tmp_path, 1) / "state.pt"
    if how == "torch":
        torch.save({"optimizer": _Attack(mark)}, file)
    else:
        file.write_bytes(pickle.dumps(_Attack(mark), protocol=2))
    with pytest.raises(CammsrError, match="cannot be read"):
        load_checkpoint(checkpoint_path(tmp_path, 1), state)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Attack(mark)))
    assert mark.exists()  # it would have run, had anything been let to


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint at all",
        b"PK\x03\x04 cut short",
        pickle.dumps({"optimizer": Progress}, protocol=2),
    ],
    ids=["empty", "text", "zip", "pickle"],
)
def test_a_damaged_state_is_told_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    state = _training()
    save_checkpoint(tmp_path, state)
    path = checkpoint_path(tmp_path, 1)
    (path / "state.pt").write_bytes(content)
    with pytest.raises(CammsrError, match="cannot be read") as caught:
        load_checkpoint(path, state)
    assert "step-1" in (caught.value.hint or "")


def test_a_state_without_its_parts_is_told(tmp_path: Path) -> None:
    state = _training()
    save_checkpoint(tmp_path, state)
    path = checkpoint_path(tmp_path, 1)
    torch.save({"optimizer": state.optimizer.state_dict()}, path / "state.pt")
    with pytest.raises(CammsrError, match="cannot be read"):
        load_checkpoint(path, state)


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_damaged_weights_are_told(tmp_path: Path, content: bytes) -> None:
    state = _training()
    save_checkpoint(tmp_path, state)
    path = checkpoint_path(tmp_path, 1)
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(CammsrError, match="cannot be loaded"):
        load_checkpoint(path, state)


def test_another_model_s_checkpoint_is_told(tmp_path: Path) -> None:
    state = _training(width=32)
    save_checkpoint(tmp_path, state)
    with pytest.raises(CammsrError, match="cannot be loaded"):
        load_checkpoint(checkpoint_path(tmp_path, 1), _training())


def test_the_newest_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    assert newest_checkpoint(tmp_path) is None
    for name in ("step-9", "step-10", "step-2", ".step-99.partial", "step-x", "other"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "step-10"


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        (tmp_path / f"step-{step}").mkdir()
    drop_old_checkpoints(tmp_path, Progress(best_step=4), keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-4", "step-8", "step-10"}
    drop_old_checkpoints(tmp_path, Progress(best_step=8), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-8", "step-10"}
    drop_old_checkpoints(tmp_path, Progress(best_step=10), keep=5)
    assert {path.name for path in tmp_path.iterdir()} == {"step-8", "step-10"}
