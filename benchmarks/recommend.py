"""What `cammsr recommend` takes: for one user from the shell, for one in a process, for all.

    python -m benchmarks.recommend --run RUN [--data FILE.h5] [--items 100000] [--times 7]

Prints Markdown: the shell's time against `python -c "import torch"`, alternating, so that whatever
else runs on the machine slows both; p50 and p99 of a warm call; all users to a Parquet file; and,
where faiss is installed, its speed and recall against exact search in a made-up catalogue whose
vectors are mixtures of the run's own.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cammsr_cli.ranking.full_ranking import user_queries
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.recommendation_file import write_recommendations
from cammsr_cli.ranking.top_k import ExactIndex, FaissIndex, faiss_is_installed, recall
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run

K = 10
WARM_CALLS = 1000
SEARCHED_USERS = 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="if not the data set it was trained on")
    parser.add_argument("--items", type=int, default=100_000, help="of the made-up catalogue")
    parser.add_argument("--times", type=int, default=7, help="runs from the shell")
    options = parser.parse_args()
    loaded = load_run(RunFolder(options.run), options.data, torch.device("cpu"))
    recommender = Recommender(loaded)
    users, items = len(loaded.data.user_ids), len(loaded.data.item_ids)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"{users:,} users, {items:,} items\n"
    )
    print("| what | figure |\n|---|---:|")
    _print_shell(options.run, loaded.data.path, loaded.data.user_ids[0], options.times)
    _print_warm(recommender)
    _print_all(recommender)
    if faiss_is_installed():
        _print_faiss(recommender, options.items)


def _print_shell(run: Path, data: Path, user: str, times: int) -> None:
    torch_alone = [sys.executable, "-c", "import torch"]
    ours = [sys.executable, "-m", "cammsr_cli", "recommend", str(run)]
    ours += ["--data", str(data), "--user", user]
    pairs = [(_taken(torch_alone), _taken(ours)) for _ in range(times + 1)][1:]  # one to warm up
    (alone, alone_cpu), (whole, whole_cpu) = (
        np.median(one, axis=0).tolist() for one in zip(*pairs, strict=True)
    )
    print(
        f'| `python -c "import torch"`, median of {times}: wall, CPU '
        f"| {alone:.2f} s, {alone_cpu:.2f} s |"
    )
    print(
        f"| `cammsr recommend RUN --user {user}`, alternating with it "
        f"| {whole:.2f} s, {whole_cpu:.2f} s |"
    )
    print(
        "| ratio of the two, at most 1.5 wanted "
        f"| {whole / alone:.2f}, {whole_cpu / alone_cpu:.2f} |"
    )


def _taken(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system
    return wall, cpu - before.children_user - before.children_system


def _print_warm(recommender: Recommender) -> None:
    ids = recommender.run.data.user_ids
    drawn = np.random.default_rng(0).integers(0, len(ids), WARM_CALLS + 20)
    seconds = [_seconds(partial(recommender.recommend, ids[user], K)) for user in drawn][20:]
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    print(f"| one user, warm, in the process: p50 of {WARM_CALLS:,} calls | {p50:.1f} ms |")
    print(f"| p99 | {p99:.1f} ms |")


def _print_all(recommender: Recommender) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "recommendations.parquet"
        written = write_recommendations(recommender, recommender.everyone, out, K, lambda *_: None)
        size = out.stat().st_size
    print(
        f"| all {written.users:,} users to Parquet, {size / 1e6:.1f} MB | {written.seconds:.1f} s |"
    )
    print(f"| users a second | {written.users / written.seconds:,.0f} |")


def _print_faiss(recommender: Recommender, items: int) -> None:
    target_NV, query_UV = _made_up(recommender, items)
    exact = ExactIndex(target_NV)
    truth = exact.top_k(query_UV, K, None)
    began = time.perf_counter()
    index = FaissIndex(target_NV)
    built = time.perf_counter() - began
    # What is told to a user comes from other users than those it is judged by here.
    index.aim(query_UV[::4], K, None, exact.top_k(query_UV[::4], K, None))
    found = index.top_k(query_UV, K, None)
    each = 1e6 / len(query_UV)
    slow = min(_seconds(lambda: exact.top_k(query_UV, K, None)) for _ in range(3)) * each
    fast = min(_seconds(lambda: index.top_k(query_UV, K, None)) for _ in range(3)) * each
    print(f"| exact search of {items:,} made-up items, a user | {slow:,.0f} µs |")
    print(f"| faiss, {index.visited} of {index.lists} groups, a user | {fast:,.0f} µs |")
    print(f"| recall@{K} against exact, {len(query_UV):,} users | {recall(found, truth):.3f} |")
    print(f"| building the index | {built:.1f} s |")
    print(f"| users from which it pays | {built * 1e6 / max(slow - fast, 1e-9):,.0f} |")


def _made_up(recommender: Recommender, items: int) -> tuple[Tensor, Tensor]:
    """Targets and queries spread as the run's own: mixtures of two of them, and some noise."""
    generator = torch.Generator().manual_seed(0)
    own_NV = recommender.tables.target_NV
    users = recommender.everyone[:SEARCHED_USERS]
    bounds = torch.from_numpy(recommender.run.data.event_indptr)
    own_UV = user_queries(
        recommender.run.model,
        recommender.tables,
        recommender.run.events,
        bounds[:-1][users],
        bounds[1:][users],
    )

    def mixed(vectors: Tensor, count: int) -> Tensor:
        one, other = (
            vectors[torch.randint(len(vectors), (count,), generator=generator)] for _ in range(2)
        )
        share = torch.rand(count, 1, generator=generator)
        noise = torch.randn(count, vectors.shape[1], generator=generator)
        return share * one + (1 - share) * other + 0.5 * vectors.std(0) * noise

    return mixed(own_NV, items), mixed(own_UV, SEARCHED_USERS)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
