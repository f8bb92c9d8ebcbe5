"""Checkpoints: everything comes back, and nothing in one is ever run."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from pretended_cuda import pretended_cuda

from cammsr_cli.errors import CammsrError
from cammsr_cli.files import CHECKSUMS
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.training.checkpoints import (
    Progress,
    TrainingState,
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    newest_whole_checkpoint,
    save_checkpoint,
)


def _training(seed: int = 0, width: int = 16, progress: Progress | None = None) -> TrainingState:
    torch.manual_seed(seed)
    model, averaged = (
        Cammsr(6, {"text": 4}, 0, width=width, layers=1, length=4, dropout=0.3) for _ in range(2)
    )
    assert model.items.id_table is not None
    table = model.items.id_table.weight
    others = [parameter for parameter in model.parameters() if parameter is not table]
    optimizers = [torch.optim.AdamW(others, lr=0.01), torch.optim.SparseAdam([table], lr=0.01)]
    return TrainingState(model, averaged, optimizers, progress or Progress(step=1))


def _step(state: TrainingState) -> float:
    """A step that depends on weights, the state of both optimisers and random numbers."""
    model = state.model
    assert model.items.id_table is not None
    rows = torch.nn.functional.embedding(
        torch.randint(0, 6, (3,)), model.items.id_table.weight, sparse=True
    )
    noisy = torch.nn.functional.dropout(rows, 0.5) + torch.randn(rows.shape)
    loss = (noisy * model.items.missing_SD.sum(0).repeat(2)).square().sum()
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in state.optimizers:
        optimizer.step()
    return loss.item()


def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    progress = Progress(
        epoch=2, step=7, best=0.25, best_epoch=1, best_step=4, batch=3, sums={"category": 0.1}
    )
    state = _training(progress=progress)
    for _ in range(2):
        _step(state)
    save_checkpoint(tmp_path, state)
    straight = [_step(state) for _ in range(4)]

    other = _training(seed=5)
    torch.randn(100)
    load_checkpoint(checkpoint_path(tmp_path, 7), other)
    assert other.progress == state.progress
    assert [_step(other) for _ in range(4)] == straight
    for ours, theirs in ((state.model, other.model), (state.averaged, other.averaged)):
        for name, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], value), name


def test_weights_travel_with_the_measured_columns(tmp_path: Path) -> None:
    state = _training()
    state.model.items.projections[0].measure(torch.randn(30, 4) * 5 + 2, torch.ones(30).bool())
    save_checkpoint(tmp_path, state)
    other = _training(seed=1)
    load_checkpoint(checkpoint_path(tmp_path, 1), other)
    for name in ("mean", "scale"):
        theirs, ours = (getattr(s.model.items.projections[0], name) for s in (other, state))
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize(
    ("saved_on", "gpus", "then_on", "then_gpus"),
    [(3, 4, 0, 1), (0, 1, 1, 2), (0, 1, 0, 1)],
)
def test_a_gpu_s_random_state_comes_back_on_another_or_on_fewer(
    tmp_path: Path, saved_on: int, gpus: int, then_on: int, then_gpus: int
) -> None:
    drawn = torch.arange(16, dtype=torch.uint8)
    state = _training()
    with (
        pretended_cuda(devices=gpus),
        patch.object(Cammsr, "device", torch.device("cuda", saved_on)),
    ):
        torch.cuda.set_rng_state(drawn, torch.device("cuda", saved_on))
        save_checkpoint(tmp_path, state)
    there = torch.device("cuda", then_on)
    with pretended_cuda(devices=then_gpus), patch.object(Cammsr, "device", there):
        assert not torch.equal(torch.cuda.get_rng_state(there), drawn)
        load_checkpoint(checkpoint_path(tmp_path, 1), state)
        assert torch.equal(torch.cuda.get_rng_state(there), drawn)


def test_a_checkpoint_of_older_versions_has_the_states_of_all_gpus(tmp_path: Path) -> None:
    state = _training()
    save_checkpoint(tmp_path, state)
    path = checkpoint_path(tmp_path, 1)
    rest = torch.load(path / "state.pt", weights_only=True)
    assert rest["cuda_random"] == []  # of a training on the CPU
    rest["cuda_random"] = [torch.full((16,), 10 + at, dtype=torch.uint8) for at in range(4)]
    torch.save(rest, path / "state.pt")
    for on, gpus in ((0, 1), (1, 2)):
        device = torch.device("cuda", on)
        with pretended_cuda(devices=gpus), patch.object(Cammsr, "device", device):
            load_checkpoint(path, state)
            assert torch.cuda.get_rng_state(device)[0] == 10 + on
    load_checkpoint(path, state)  # on a machine without any


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
        torch.save({"optimizers": [_Attack(mark)]}, file)
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
        pickle.dumps({"optimizers": Progress}, protocol=2),
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


@pytest.mark.parametrize("lacking", ["optimizers", "an optimizer", "random", "progress"])
def test_a_state_without_its_parts_is_told(tmp_path: Path, lacking: str) -> None:
    state = _training()
    save_checkpoint(tmp_path, state)
    path = checkpoint_path(tmp_path, 1)
    rest = torch.load(path / "state.pt", weights_only=True)
    if lacking == "an optimizer":
        del rest["optimizers"][1]
    else:
        del rest[lacking]
    torch.save(rest, path / "state.pt")
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


# --- damage -------------------------------------------------------------------------------------


def _saved(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, _training(progress=Progress(step=step)))


def _newest(folder: Path) -> tuple[Path | None, list[str]]:
    notes: list[str] = []
    return newest_whole_checkpoint(folder, notes.append), notes


def test_the_newest_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert _newest(tmp_path / "none") == (None, [])
    assert _newest(tmp_path) == (None, [])
    _saved(tmp_path, 9, 10, 2)
    for name in (".step-99.partial", "step-x", "other"):
        (tmp_path / name).mkdir()
    assert _newest(tmp_path) == (tmp_path / "step-10", [])


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    _saved(tmp_path, 3)
    folder = checkpoint_path(tmp_path, 3)
    listed = dict(
        reversed(line.split("  ")) for line in (folder / CHECKSUMS).read_text().splitlines()
    )
    files = {file.name: file for file in folder.iterdir() if file.name != CHECKSUMS}
    assert set(files) == {"model.safetensors", "averaged.safetensors", "state.pt"}
    assert listed == {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()
    }


FILES = ("model.safetensors", "averaged.safetensors", "state.pt", CHECKSUMS)


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_any_byte_flipped_cut_short_or_gone_is_passed_over(
    tmp_path: Path, name: str
) -> None:
    _saved(tmp_path, 4, 8)
    file = checkpoint_path(tmp_path, 8) / name
    content = file.read_bytes()
    last = len(content) - 2  # what follows is the end of the last line of the checksums
    places = sorted({round(last * share / 20) for share in range(21)})
    damages = {f"byte {at} flipped": _flipped(content, at) for at in places}
    damages |= {f"cut to {at} bytes": content[:at] for at in places}
    damages |= {f"nought from {at}": content[:at] + bytes(len(content) - at) for at in places}
    damages |= {"longer": content + b"x"}
    for damage, damaged in damages.items():
        if damaged == content:
            continue
        file.write_bytes(damaged)
        found, notes = _newest(tmp_path)
        assert found == checkpoint_path(tmp_path, 4), damage
        assert len(notes) == 1, damage
        assert "step-8 is damaged and passed over" in notes[0]
        assert "\n" not in notes[0]
    file.unlink()
    assert _newest(tmp_path)[0] == checkpoint_path(tmp_path, 4)
    file.write_bytes(content)
    assert _newest(tmp_path) == (checkpoint_path(tmp_path, 8), [])


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    _saved(tmp_path, 4, 8)
    for step in (4, 8):
        (checkpoint_path(tmp_path, step) / "state.pt").write_bytes(b"")
    with pytest.raises(CammsrError, match=r"all 2 checkpoints in .* are damaged") as caught:
        _newest(tmp_path)
    assert "--force" in (caught.value.hint or "")


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    _saved(tmp_path, 4)
    before = {file.name: file.read_bytes() for file in checkpoint_path(tmp_path, 4).iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    for step in (4, 6):
        with pytest.raises(CammsrError, match="No space left"):
            _saved(tmp_path, step)
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]
    assert before == {f.name: f.read_bytes() for f in checkpoint_path(tmp_path, 4).iterdir()}


# --- which are kept -----------------------------------------------------------------------------


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        (tmp_path / f"step-{step}").mkdir()
    drop_old_checkpoints(tmp_path, Progress(step=10, best_step=4), keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-4", "step-8", "step-10"}
    drop_old_checkpoints(tmp_path, Progress(step=10, best_step=8), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-8", "step-10"}
    drop_old_checkpoints(tmp_path, Progress(step=10, best_step=10), keep=5)
    assert {path.name for path in tmp_path.iterdir()} == {"step-8", "step-10"}


def test_killed_while_an_old_one_goes_no_part_of_it_passes_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _saved(tmp_path, 2, 4, 6)

    def killed_halfway(path: Path, **_: object) -> None:
        next(iter(Path(path).iterdir())).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed_halfway)
    with pytest.raises(KeyboardInterrupt):
        drop_old_checkpoints(tmp_path, Progress(step=6, best_step=6), keep=1)
    monkeypatch.undo()
    for path in tmp_path.glob("step-*"):
        assert {file.name for file in path.iterdir()} == set(FILES), path.name
