"""Work that is shared gives what one process gives: shards and merge, devices, torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from plugin_folder import install, write_shop
from web_server import WebServer, sends, web_server

from cammsr_cli.data.corpus import SourceOptions
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError
from cammsr_cli.locks import only_writer
from cammsr_cli.prepare.dataset_parts import prepare_together
from cammsr_cli.prepare.options import PrepareOptions

ITEMS = 100


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(install(tmp_path / "plugin")))
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(tmp_path / "cache"))
    return write_shop(tmp_path / "shop", ITEMS)


@pytest.fixture
def whole(shop: Path, tmp_path: Path, prepare: Callable) -> Path:
    prepare("--out", tmp_path / "whole.h5")
    return tmp_path / "whole.h5"


@pytest.fixture
def prepare(shop: Path, cammsr: Callable) -> Callable:
    def run(*more: object, code: int = 0, encoder: str = "counting"):
        arguments = (shop, "--encoder", encoder, "--batch-size", 4, *more)
        answer = cammsr("prepare", *arguments)
        assert answer.code == code, answer.err
        return answer

    return run


def same(one: Path, other: Path) -> None:
    """The same arrays, names and attributes."""
    found = []
    for path in (one, other):
        with h5py.File(path) as file:
            nodes: dict[str, object] = {"/": dict(file.attrs)}

            def add(name: str, node: h5py.Group | h5py.Dataset, nodes=nodes) -> None:
                nodes[f"{name}@"] = dict(node.attrs)
                if isinstance(node, h5py.Dataset):
                    nodes[name] = str(node.dtype), node[()].tolist()

            file.visititems(add)
            found.append(nodes)
    assert found[0] == found[1]


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_parts_join_to_what_one_process_makes(
    tmp_path: Path, whole: Path, prepare: Callable, cammsr: Callable, count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of 20 parts some are empty; each is made with a cache of its own, as on its own machine."""
    planned = json.loads(prepare("--out", tmp_path / "x.h5", "--dry-run", "--json").out)
    nothing = planned["modalities"]["count"]["missing"]  # all parts see these
    encoded = missing = 0
    for number in range(1, count + 1):
        monkeypatch.setenv("CAMMSR_CACHE_DIR", str(tmp_path / f"cache {number}"))
        part = ("--out", tmp_path / "x.h5", "--shard", f"{number}/{count}", "--json")
        assert json.loads(prepare(*part, "--dry-run").out)["modalities"]["count"]["missing"] == (
            nothing
        )
        answer = prepare(*part)
        assert "no item has" not in answer.err
        encoded += json.loads(answer.out)["modalities"]["count"]["encoded"]
        missing += json.loads(answer.out)["modalities"]["count"]["missing"] - nothing
    if count == 1:
        same(tmp_path / "x.h5", whole)  # one of one is the whole
        return
    parts = sorted(tmp_path.glob(f"x.*-of-{count}.h5"), reverse=True)
    assert len(parts) == count
    answer = cammsr("merge", *parts, "--out", tmp_path / "x.h5", "--json")
    assert answer.code == 0, answer.err
    same(tmp_path / "x.h5", whole)
    _, present = DataSet(whole).vectors("count")
    assert encoded == len(np.unique(DataSet(whole).inputs("count")[present], axis=0))
    assert missing + nothing == np.count_nonzero(~present)
    listed = whole.with_name("whole.h5.problems.csv").read_text()
    assert listed.count("bad one") == sum(item % 11 == 10 for item in range(ITEMS))
    assert "no such file" in listed
    assert (tmp_path / "x.h5.problems.csv").read_text() == listed
    assert json.loads(answer.out)["problems"] == listed.count("\n") - 1


def test_what_does_not_belong_together_is_not_joined(
    tmp_path: Path, shop: Path, whole: Path, prepare: Callable, cammsr: Callable
) -> None:
    out = tmp_path / "joined.h5"
    first, second = tmp_path / "a.1-of-2.h5", tmp_path / "a.2-of-2.h5"
    prepare("--out", tmp_path / "a.h5", "--shard", "1/2")
    prepare("--out", tmp_path / "a.h5", "--shard", "2/2", encoder="counting=,factor=2")
    prepare("--out", tmp_path / "b.h5", "--shard", "3/3")

    def refused(told: str, code: int, *parts: Path) -> None:
        answer = cammsr("merge", *parts, "--out", out)
        assert answer.code == code, answer.err
        assert told in answer.err
        assert not out.exists()

    refused("they differ in encoder of count", 1, first, second)
    refused("of 2 parts 1 are missing: 2/2", 2, first)
    refused("is given twice", 2, first, first)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(first.read_bytes())
    refused("are the same part, 1/2", 2, first, copy)
    refused("of 2 and of 3 parts", 2, first, tmp_path / "b.3-of-3.h5")
    refused("is a whole data set", 2, whole, first)
    refused("no such data set", 1, first, tmp_path / "nowhere.h5")
    write_shop(shop, ITEMS, {1: "another title"})
    prepare("--out", tmp_path / "a.h5", "--shard", "2/2", "--force")
    refused("they differ in users, items or events", 1, first, second)
    write_shop(shop, ITEMS)
    (shop / "pictures" / "0.txt").write_text("another picture")
    prepare("--out", tmp_path / "a.h5", "--shard", "2/2", "--force")
    refused("they differ in texts or media files for count", 1, first, second)
    answer = cammsr("merge", first, second, "--out", whole)
    assert (answer.code, "nothing is overwritten" in answer.err) == (2, True)


def test_a_part_is_not_taken_for_a_data_set(tmp_path: Path, prepare: Callable) -> None:
    answer = prepare("--out", tmp_path / "a.h5", "--shard", "1/2")
    assert f"Next: cammsr merge {tmp_path}/a.*-of-2.h5 --out {tmp_path}/a.h5" in answer.err
    with pytest.raises(CammsrError, match="is part 1/2 of a data set") as caught:
        DataSet(tmp_path / "a.1-of-2.h5")
    assert "cammsr merge" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "/2", "a/b", "-1/2", "1/2/3", "²/3", ""])
def test_a_shard_is_i_of_n(prepare: Callable, tmp_path: Path, text: str) -> None:
    answer = prepare("--out", tmp_path / "a.h5", "--shard", text, code=2)
    assert "write i/n" in answer.err


def test_devices_share_the_work(
    tmp_path: Path, whole: Path, prepare: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told").mkdir()
    monkeypatch.setenv("COUNTING_TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(tmp_path / "another cache"))
    prepare("--out", tmp_path / "two.h5", "--device", "cpu,cpu", "--workers", 1)
    same(tmp_path / "two.h5", whole)
    who = {one.name.split()[1] for one in (tmp_path / "told").iterdir()}
    assert len(who) == 2
    assert str(os.getpid()) not in who


@pytest.mark.parametrize(
    ("title", "told"),
    [("fault", "on cpu: encoder 'counting' failed on a batch"), ("die", "died with exit code 9")],
)
def test_what_ends_a_device_ends_the_run(
    tmp_path: Path, shop: Path, prepare: Callable, title: str, told: str
) -> None:
    write_shop(shop, 20, {3: title})
    answer = prepare("--out", tmp_path / "x.h5", "--device", "cpu,cpu", code=1)
    assert told in answer.err
    assert not (tmp_path / "x.h5").exists()


@pytest.fixture
def web_shop(shop: Path) -> Iterator[tuple[Path, WebServer]]:
    """The shop with pictures behind URLs, of which one is gone."""
    with web_server() as server:
        write_shop(shop, ITEMS, {4: "crash", 5: "hang"})
        lines = (shop / "items.csv").read_text().splitlines()
        for number in range(8):
            server.answers[f"/{number}"] = sends(f"GIF89a {number}".encode())
            lines[8 + 3 * number] = f"i{7 + 3 * number},web,{server.url(f'/{number}')}"
        del server.answers["/7"]
        (shop / "items.csv").write_text("\n".join(lines) + "\n")
        yield shop, server


ONCE = {f"/{number}": 1 for number in range(8)}
WEB = ("--allow-private-hosts", "--decode-seconds", "3", "--workers", "1")


def test_parts_with_urls_need_one_cache(
    tmp_path: Path, web_shop: tuple[Path, WebServer], prepare: Callable, cammsr: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, server = web_shop
    out, parts = tmp_path / "x.h5", [tmp_path / f"x.{one}-of-2.h5" for one in (1, 2)]
    prepare("--out", out, "--shard", "1/2", *WEB)
    assert server.asked == ONCE
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("CAMMSR_CACHE_DIR", str(tmp_path / "another cache"))
        prepare("--out", out, "--shard", "2/2", *WEB, "--no-download")
    answer = cammsr("merge", *parts, "--out", out)
    assert answer.code == 1
    assert "they differ in texts or media files for count" in answer.err
    assert "share CAMMSR_CACHE_DIR" in answer.err
    prepare("--out", out, "--shard", "2/2", *WEB, "--no-download", "--force")
    answer = cammsr("merge", *parts, "--out", out)
    assert answer.code == 0, answer.err
    assert server.asked == ONCE
    # Each part saw another reason; the item is listed once.
    listed = out.with_name("x.h5.problems.csv").read_text()
    assert listed.count("/7,not downloaded") == 1


def test_an_output_has_one_writer(
    tmp_path: Path, shop: Path, prepare: Callable, cammsr: Callable
) -> None:
    out, parts = tmp_path / "x.h5", [tmp_path / f"x.{one}-of-2.h5" for one in (1, 2)]
    for number in (1, 2):
        prepare("--out", out, "--shard", f"{number}/2")
    together = PrepareOptions(SourceOptions(shop), out)
    with only_writer(out):
        answer = cammsr("merge", *parts, "--out", out)
        assert (answer.code, "is being written by" in answer.err) == (1, True)
        with pytest.raises(CammsrError, match="is being written by"):
            prepare_together(together, pytest.fail, World(0, 2, torch.device("cpu")))
        assert not out.exists()
    assert cammsr("merge", *parts, "--out", out).code == 0


def test_torchrun_shares_the_work(
    tmp_path: Path, web_shop: tuple[Path, WebServer], prepare: Callable
) -> None:
    """Each URL is asked for once; what hangs or kills its decoder costs one item."""
    shop, server = web_shop
    out, whole = tmp_path / "together.h5", tmp_path / "whole.h5"
    prepare("--out", whole, *WEB)
    server.asked.clear()
    path = os.pathsep.join([str(tmp_path / "plugin"), os.environ.get("PYTHONPATH", "")])
    arguments = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", "cammsr_cli", "prepare", shop, "--encoder", "counting", "--batch-size", "4",
        "--device", "cpu", "--out", out, "--json", *WEB,
    ]  # fmt: skip
    done = subprocess.run(
        [str(one) for one in arguments],
        env={**os.environ, "PYTHONPATH": path, "CAMMSR_CACHE_DIR": str(tmp_path / "third cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert server.asked == ONCE
    same(out, whole)
    listed = out.with_name("together.h5.problems.csv").read_text()
    assert listed == whole.with_name("whole.h5.problems.csv").read_text()
    for told in ("died of it (exit code 7)", "not decoded within 3 seconds", "HTTP 404"):
        assert listed.count(told) == 1
    assert json.loads(done.stdout)["modalities"] == {
        "count": int(DataSet(whole).vectors("count")[1].sum())
    }
    assert not [one for one in tmp_path.iterdir() if "-of-" in one.name]


def test_under_torchrun_one_process_tells_the_plan(
    tmp_path: Path, prepare: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        said.append(prepare("--out", tmp_path / "x.h5", "--dry-run", "--json").out)
    assert json.loads(said[0])["items"] == ITEMS
    assert said[1] == ""
