"""The id table sharded over two processes: the same as one table in every way but its place.

Run by `torchrun`, this file is what each of the processes does: `test_sharding.py CHECK DATA`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from cammsr_cli.config import Config
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.distributed import World, joined
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.spec import describe, training_items
from cammsr_cli.training.checkpoints import (
    TrainingState,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from cammsr_cli.training.loop import Trainer
from cammsr_cli.training.sharding import (
    RowShardedTable,
    gathered,
    local_part,
    own_rows,
    whole_optimizer_state,
    whole_weights,
)
from cammsr_cli.training.train import make_trainer

CPU = torch.device("cpu")
TABLE = "items.id_table.weight"
SAMPLED = [
    "--set",
    "training.sampled_softmax_above=0",
    "--set",
    "training.sparse_adam_above=0",
    "--set",
    "training.batch_size=16",
]


def _torchrun(*arguments: object) -> subprocess.Popen[str]:
    """Start two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", "2", *(str(one) for one in arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _train(*arguments: object) -> subprocess.Popen[str]:
    return _torchrun("-m", "cammsr_cli", "train", *arguments)


def _end(process: subprocess.Popen[str]) -> str:
    """What two processes said until they came to a good end."""
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return err


# --- what each of two processes does ------------------------------------------------------------


def _leave(rank: int, *_: Path) -> None:
    """They leave right after an exchange, and let no other thread run before they do."""
    sys.setswitchinterval(1000)
    for _ in range(3):
        dist.broadcast(torch.ones(1000), 0)


def _look_up(rank: int, *_: Path) -> None:
    """Rows and gradients are those of a whole table; each process holds its own rows alone."""
    mesh = init_device_mesh("cpu", (2,))
    # Rows of the table; and those that process 0 and process 1 ask for.
    for rows, asked in (
        (12, ([0, 11, 5], [6, 7, 8])),
        (11, ([10, 3, 3, 0, 5, 6], [3, 10])),  # some asked for twice, here or by both
        (11, ([], [6, 6, 6])),
        (7, ([6, 6], [6])),  # process 0 has none of them
        (1, ([0], [0, 0, 0])),  # process 1 has no row at all
        (3, ([], [])),
    ):
        torch.manual_seed(rows)
        whole = nn.Embedding(rows, 5)
        table = RowShardedTable(whole.weight, mesh)
        row = [torch.tensor(one, dtype=torch.int64) for one in asked]
        scale = [torch.randn(len(one), 5) for one in asked]

        found = table(row[rank])
        assert torch.equal(found, whole(row[rank]))
        with torch.inference_mode():
            assert torch.equal(table(row[rank]), found)

        for _ in range(2):  # gradients add up, as they do of any weight
            (table(row[rank]) * scale[rank]).sum().backward()
            for one, by in zip(row, scale, strict=True):
                ((whole(one) * by).sum() / 2).backward()
        grad = table.weight.grad
        held = {"weight": local_part(table.weight), "gradient": local_part(grad)}
        first = -(-rows // 2) * rank
        for name, part in held.items():
            assert len(part) == (rows // 2 if rank else -(-rows // 2)), name
            # Not a view of the whole, which would keep it alive.
            assert part.untyped_storage().nbytes() == part.nbytes, name
        torch.testing.assert_close(
            held["gradient"], whole.weight.grad[first : first + len(held["gradient"])]
        )
        for tensor, expected in ((table.weight, whole.weight), (grad, whole.weight.grad)):
            all_of_it = gathered(tensor)
            if rank:
                assert not len(all_of_it)
            else:
                torch.testing.assert_close(all_of_it, expected.detach())

        other = RowShardedTable(torch.zeros(rows, 5), mesh)
        other.load_state_dict({"weight": whole.weight.detach()})
        assert torch.equal(local_part(other.weight), held["weight"])
        with pytest.raises(RuntimeError, match="size mismatch"):
            other.load_state_dict({"weight": torch.zeros(rows + 1, 5)})


def _trainer(data: DataSet, world: World, **training: object) -> Trainer:
    """Nothing is left to chance, and every item is among those drawn."""
    config = Config.model_validate(
        {
            "model": {
                "dropout": 0.0,
                "id_dropout": 0.0,
                "neighbours": 0,
                "width": 16,
                "heads": 2,
                "length": 12,
            },
            "training": {
                "sampled_softmax_above": 0,
                "sparse_adam_above": 0,
                "negatives": 4000,
                "batch_size": 128,
                "shuffle_ties": False,
                **training,
            },
        }
    )
    spec = describe(data, config.model, "cammsr")
    id_rows = [data.item_ids[item] for item in training_items(data)]
    return make_trainer(RunFolder(Path()), data, config, spec, id_rows, world, print)


def _windows(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """The events of each user that have a training event after them."""
    long = trainer.end_U - trainer.start_U > 1
    return trainer.start_U[long], trainer.end_U[long] - 1


def _step(rank: int, data_path: Path, _: Path) -> None:
    """A step's losses, gradients and norm are those of one process, however it is cut."""
    data = DataSet(data_path)
    for windows, micro_batch, clip in (
        (10, 0, 1e9),
        (9, 0, 0.01),
        (9, 2, 0.01),  # process 0 needs three goes, process 1 two
        (1, 0, 1e9),  # process 1 has none
    ):
        alone = _trainer(data, World(0, 1, CPU), clip_norm=clip)
        shared = _trainer(data, World(rank, 2, CPU), clip_norm=clip, micro_batch=micro_batch)
        table = shared.state.model.items.id_table
        assert isinstance(table, RowShardedTable)
        assert shared.state.averaged.items.id_table is table
        start_W, end_W = (bound[:windows] for bound in _windows(alone))
        _require_close(shared.step(start_W, end_W), alone.step(start_W, end_W))
        expected = {n: w.grad.to_dense() for n, w in alone.state.model.named_parameters()}
        expected[TABLE] = local_part(own_rows(expected[TABLE], table.mesh))
        _require_close(_gradients(shared.state.model), expected)
        moments = shared.state.optimizers[1].state[table.weight]
        for tensor in (table.weight, moments["exp_avg"], moments["exp_avg_sq"]):
            assert local_part(tensor).shape == expected[TABLE].shape


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: local_part(weight.grad) for name, weight in model.named_parameters()}


def _require_close(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-7
) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e3 * tolerance, atol=tolerance, msg=name
        )


def _checkpoint(rank: int, data_path: Path, folder: Path) -> None:
    """What two processes wrote is gone on with by two or by one, and what one wrote by two."""
    data = DataSet(data_path)
    one, two = World(0, 1, CPU), World(rank, 2, CPU)
    for name, writer, reader in (("two", two, two), ("two", two, one), ("one", one, two)):
        before, after = _trainer(data, writer), _trainer(data, reader, seed=3)
        for _ in range(2):
            before.step(*_windows(before))
        save_checkpoint(folder / name, before.state, leads=rank == 0)
        two.wait()
        load_checkpoint(checkpoint_path(folder / name, 2), after.state)
        two.wait()
        assert after.state.progress == before.state.progress
        _require_close(_whole(after.state, rank), _whole(before.state, rank), tolerance=0)
        for trainer in (before, after):
            trainer.step(*_windows(trainer))
        # Every item is met: Adam moves as much as Adam of the rows met alone.
        _require_close(_whole(after.state, rank), _whole(before.state, rank), tolerance=1e-4)


def _whole(state: TrainingState, rank: int) -> dict[str, Tensor]:
    """All that is in a checkpoint, as it is written; for process 0 to look at."""
    found = {
        f"{part} {name}": value
        for part in ("model", "averaged")
        for name, value in whole_weights(getattr(state, part)).items()
    }
    for number, optimizer in enumerate(state.optimizers):
        for at, moments in whole_optimizer_state(optimizer)["state"].items():
            for name, value in moments.items():
                found[f"{number} {at} {name}"] = torch.as_tensor(value, dtype=torch.float32)
    # Attention is blind to the keys' bias: its gradient is noise, which Adam scales.
    return {} if rank else {n: v for n, v in found.items() if "query_key_value.bias" not in n}


CHECKS = {"leave": _leave, "look up": _look_up, "step": _step, "checkpoint": _checkpoint}

if __name__ == "__main__":
    with joined(CPU) as world:
        CHECKS[sys.argv[1]](world.rank, Path(sys.argv[2]), Path(sys.argv[3]))


# --- tests --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_share_a_table(check: str, toy_data: Path, tmp_path: Path) -> None:
    _end(_torchrun(__file__, check, toy_data, tmp_path))


@pytest.mark.slow
def test_one_process_uses_what_two_have_trained(toy_data: Path, tmp_path: Path, cammsr) -> None:
    run = tmp_path / "run"
    err = _end(_train(toy_data, "--out", run, *SAMPLED, "--set", "training.epochs=2"))
    assert "on cpu x 2" in err
    assert "sampled softmax" in err
    weights = load_file(run / "model.safetensors")
    assert weights[TABLE].shape == (len(RunFolder(run).item_ids()), 2 * 64)  # an id a branch
    answer = cammsr("evaluate", run, "--json")
    assert answer.code == 0, answer.err


@pytest.mark.slow
def test_two_interrupted_processes_go_on_from_their_checkpoint(
    toy_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = _train(toy_data, "--out", run, *SAMPLED, "--set", "training.patience=200")
    while process.poll() is None and not list((run / "checkpoints").glob("step-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode, err
    assert not (run / "model.safetensors").exists()
    done = len((run / "metrics.jsonl").read_text().splitlines())

    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["training"]["epochs"] = done + 2
    from altered import with_settings  # of the tests, which the processes started here lack

    with_settings(run, yaml.safe_dump(settings))
    err = _end(_train(toy_data, "--out", run, "--resume"))
    assert "resumed after epoch" in err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, done + 3))
    assert (run / "model.safetensors").exists()
