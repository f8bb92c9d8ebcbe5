from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cammsr_encoders import BadSample, WeightsUnavailable, fingerprint_of
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.text import TextEncoder
from numpy.typing import NDArray
from PIL import Image

from cammsr_cli.encoding.encode import encode_items, plan_items
from cammsr_cli.encoding.features import FeatureOptions
from cammsr_cli.errors import CammsrError
from cammsr_cli.media.cache import MediaCache


class Toy:
    """Reads files; its vectors depend on the batch, so that a shifted batch shows."""

    api, modality, fingerprint, dim = 1, "toy", "toy 1", 2
    fields: tuple[str, ...] = ("title", "image")

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def load(self, item: Mapping[str, str]) -> str:
        if "image" not in item:
            return item["title"]
        text = Path(item["image"]).read_text()
        if text.startswith("bad"):
            raise BadSample("bad\nsample")
        if text == "crash":
            raise RuntimeError("a stranger's fault")
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return text

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        self.batches.append(samples)
        total = sum(len(sample) for sample in samples)
        return np.array([[len(one), total / 7] for one in samples], np.float32)


def _files(root: Path, texts: list[str]) -> tuple[list[dict[str, str]], list[str]]:
    for number, text in enumerate(texts):
        (root / f"{number}.txt").write_text(text)
    records = [{"image": f"{number}.txt"} for number in range(len(texts))]
    return records, [f"item{number}" for number in range(len(texts))]


def test_each_item_gets_its_vector_or_its_reason(tmp_path: Path) -> None:
    records, ids = _files(tmp_path, ["a", "bb", "bad", "crash"])
    records += [{}, {"title": "  "}, {"image": "none"}, {"image": "../x"}, {"title": "ccc"}]
    ids += ["nothing", "blank", "lost", "escaping", "text"]
    told: list[tuple[int, int, int]] = []
    features = encode_items(
        Toy(), records, ids, tmp_path, FeatureOptions(dtype="float32"),
        lambda *numbers: told.append(numbers), name="toy",
    )  # fmt: skip
    assert features.present.tolist() == [True, True, *[False] * 6, True]
    assert features.values[:, 0].tolist() == [1, 2, *[0] * 6, 3]
    assert {problem.item_id: problem.reason for problem in features.problems} == {
        "item2": "bad sample",
        "item3": "RuntimeError: a stranger's fault",
        "lost": "no such file",
        "escaping": "'..' leads out of the media folder",
    }
    assert features.problems[0].path == "none"
    assert (features.encoded, features.cached, features.encoder) == (3, 0, "toy")
    assert told == [(0, 5, 0), (5, 5, 2)]


def test_the_same_content_is_encoded_once_and_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    records, ids = _files(tmp_path, ["a", "bb", "a", "bb", "a"])
    options = FeatureOptions(cache_dir=tmp_path / "cache", dtype="float32")
    assert plan_items(Toy(), records, ids, tmp_path, options).to_encode == 2
    first = encode_items(Toy(), records, ids, tmp_path, options)
    assert first.encoded == 2
    again = Toy()
    second = encode_items(again, records, ids, tmp_path, options)
    assert (second.encoded, second.cached, again.batches) == (0, 2, [])
    assert np.array_equal(first.values, second.values)
    (tmp_path / "0.txt").write_text("new content")
    plan = plan_items(Toy(), records, ids, tmp_path, options)
    assert (plan.items, plan.unique, plan.cached, plan.to_encode) == (5, 3, 2, 1)


def test_a_fingerprint_names_the_class_once() -> None:
    class Other(Toy): ...

    class Named(Toy):
        @property
        def fingerprint(self) -> str:  # type: ignore[override]
            return fingerprint_of(self, "cammsr", size=3)

    class Borrowed(Toy):
        fingerprint = Named().fingerprint

    kinds = (Toy, Other, Named, Borrowed)
    made = [encode_items(kind(), [{"title": "a"}], ["1"], None).fingerprint for kind in kinds]
    assert len({*made}) == len(kinds)
    assert made[0] == '{"encoder": "test_encode:Toy", "fingerprint": "toy 1"}'
    assert made[2] == Named().fingerprint  # caches and data sets from before stay good
    assert [plan_items(kind(), [], [], None).fingerprint for kind in kinds] == made


def test_the_model_is_not_loaded_when_there_is_nothing_to_encode(tmp_path: Path) -> None:
    class Costly(Toy):
        loads = 0

        @property
        def dim(self) -> int:  # type: ignore[override]
            Costly.loads += 1
            return 2

    options = FeatureOptions(cache_dir=tmp_path)
    assert plan_items(Costly(), [{"title": "a"}], ["1"], None, options).dim is None
    assert Costly.loads == 0
    first = encode_items(Costly(), [{"title": "a"}], ["1"], None, options)
    assert Costly.loads == 1
    assert plan_items(Costly(), [{"title": "a"}], ["1"], None, options).dim == 2
    again = encode_items(Costly(), [{"title": "a"}, {}], ["1", "2"], None, options)
    assert (Costly.loads, again.encoded, again.values.shape) == (1, 0, (2, 2))
    assert np.array_equal(again.values[:1], first.values)
    records, ids = _files(tmp_path, ["bad"])
    costly = Costly()
    unreadable = encode_items(costly, records, ids, tmp_path, options)
    assert (Costly.loads, costly.batches, unreadable.values.shape) == (1, [], (1, 2))
    assert unreadable.problems[0].reason == "bad sample"


def test_an_input_is_what_its_key_says_or_a_failure(tmp_path: Path) -> None:
    """A file that comes or goes between hashing and decoding makes no other input of it."""
    (tmp_path / "0.txt").write_text("a picture")
    answers: dict[str, list[Path | str]] = {
        "http://host/goes": [tmp_path / "0.txt", "gone"],
        "http://host/comes": ["not yet", tmp_path / "0.txt"],
    }
    records = [{"title": name, "image": f"http://host/{name}"} for name in ("goes", "comes")]
    options = FeatureOptions(
        cache_dir=tmp_path / "cache", find_url=lambda url: answers[url].pop(0), dtype="float32"
    )
    features = encode_items(Toy(), records, ["1", "2"], None, options)
    assert features.present.tolist() == [False, True]
    assert features.values[1, 0] == len("comes")  # its title alone
    assert {(one.item_id, one.reason) for one in features.problems} == {
        ("1", "gone"), ("2", "not yet"),
    }  # fmt: skip
    assert features.encoded == 1


def test_a_cost_that_cannot_be_told_is_the_encoders_fault(tmp_path: Path) -> None:
    class Odd(Toy):
        def cost(self, item: Mapping[str, str]) -> float:
            return len(item["description"])

    with pytest.raises(CammsrError, match="'odd' failed to tell an item's cost: KeyError"):
        plan_items(Odd(), [{"title": "a"}], ["1"], None, name="odd")


def test_field_and_value_are_told_apart_in_the_key(tmp_path: Path) -> None:
    class Pair(Toy):
        fields = ("title", "description")

        def load(self, item: Mapping[str, str]) -> str:
            return "".join(item.values())

    records = [{"title": "ab"}, {"description": "ab"}, {"title": "a", "description": "b"}]
    assert plan_items(Pair(), records, ["1", "2", "3"], None).unique == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_cut_short_goes_on_bit_for_bit(tmp_path: Path, workers: int) -> None:
    texts = [f"bad {n}" if n % 5 == 1 else "x" * (n + 1) for n in range(23)]
    records, ids = _files(tmp_path, texts)

    def run(cache: Path, stop_at: int | None = None) -> Any:
        def progress(done: int, total: int, failed: int) -> None:
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        options = FeatureOptions(4, workers, "float32", cache)
        return encode_items(Toy(), records, ids, tmp_path, options, progress)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=9)
    rest = run(tmp_path / "cut")
    assert rest.cached == 9  # three chunks of 4, of which 3 items are bad
    assert rest.cached + rest.encoded == whole.encoded == 18
    assert np.array_equal(whole.values, rest.values)
    assert whole.problems == rest.problems


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import cammsr_cli.encoding.encode as runner
import cammsr_cli.encoding.features as features
from test_encode import Toy
runner._FLUSH_SECONDS = 0
root = Path(sys.argv[1])
records = [{"image": f"{n}.txt"} for n in range(12)]
def progress(done, total, failed):
    if done == 8:
        print("half", flush=True)
        time.sleep(60)
runner.encode_items(Toy(), records, [str(n) for n in range(12)], root,
                    features.FeatureOptions(4, 0, "float32", root / "cut"), progress)
"""


def test_sigkill_leaves_finished_shards(tmp_path: Path) -> None:
    records, ids = _files(tmp_path, ["x" * (n + 1) for n in range(12)])
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    rest = encode_items(
        Toy(), records, ids, tmp_path, FeatureOptions(4, 0, "float32", tmp_path / "cut")
    )
    whole = encode_items(Toy(), records, ids, tmp_path, FeatureOptions(4, 0, "float32"))
    assert rest.cached >= 4
    assert np.array_equal(rest.values, whole.values)


def test_dear_items_are_batched_together(tmp_path: Path) -> None:
    class Dear(Toy):
        def cost(self, item: Mapping[str, str]) -> float:
            return len(item["title"])

    records = [{"title": "x" * length} for length in (1, 9, 2, 8, 3, 7)]
    encoder = Dear()
    features = encode_items(encoder, records, list("abcdef"), None, FeatureOptions(2))
    assert [[len(one) for one in batch] for batch in encoder.batches] == [[9, 8], [7, 3], [2, 1]]
    assert features.values[:, 0].tolist() == [1, 9, 2, 8, 3, 7]


def test_items_that_count_as_several_samples_fill_a_batch_sooner(tmp_path: Path) -> None:
    class Clips(Toy):
        counts_as = 3

    for batch_size, items in ((6, 2), (7, 2), (2, 1)):
        encoder = Clips()
        records = [{"title": "x" * length} for length in (1, 2, 3, 4)]
        encode_items(encoder, records, list("abcd"), None, FeatureOptions(batch_size))
        assert [len(batch) for batch in encoder.batches] == [items] * (4 // items)


def test_vectors_that_cannot_be_stored_are_problems_and_not_cached(tmp_path: Path) -> None:
    class Wild(Toy):
        def encode(self, samples: list[Any]) -> NDArray[np.float32]:
            return np.array([[float(one), 0] for one in samples], np.float32)

    records = [{"title": one} for one in ("1", "nan", "inf", "1e6")]
    options = FeatureOptions(cache_dir=tmp_path)
    features = encode_items(Wild(), records, list("abcd"), None, options)
    assert features.present.tolist() == [True, False, False, False]
    assert [problem.item_id for problem in features.problems] == ["b", "c", "d"]
    assert "float32" in features.problems[2].reason
    assert plan_items(Wild(), records, list("abcd"), None, options).to_encode == 2
    stored = encode_items(
        Wild(), records, list("abcd"), None, FeatureOptions(dtype="float32", cache_dir=tmp_path)
    )
    assert stored.present.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.zeros((1, 3), np.float32), r"'odd' returned float32 \[1, 3\] for 1 samples"),
        (np.zeros(2, np.float32), r"\[2\]"),
        (np.array([["a", "b"]]), "returned <U1"),
        (WeightsUnavailable("connect once"), "connect once"),
        (ZeroDivisionError("oh"), "failed on a batch of 1: ZeroDivisionError: oh"),
    ],
)
def test_an_encoder_that_misbehaves_is_named(answer: Any, told: str) -> None:
    class Odd(Toy):
        def encode(self, samples: list[Any]) -> NDArray[np.float32]:
            if isinstance(answer, Exception):
                raise answer
            return np.asarray(answer)

    with pytest.raises(CammsrError, match=told) as raised:
        encode_items(Odd(), [{"title": "a"}], ["a"], None, name="odd")
    assert "'odd'" in raised.value.message


def test_a_file_that_kills_its_decoder_costs_one_item(tmp_path: Path) -> None:
    records, ids = _files(tmp_path, ["a", "die", "ccc"])
    features = encode_items(Toy(), records, ids, tmp_path, FeatureOptions(workers=1))
    assert features.present.tolist() == [True, False, True]
    (problem,) = features.problems
    assert (problem.item_id, problem.path) == ("item1", "1.txt")
    assert problem.reason.startswith("the decoding process died of it (SIGKILL")


def test_urls_are_planned_each_for_itself_and_encoded_by_content(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a")
    records = [{"image": f"http://host/{name}"} for name in ("x", "y", "gone", "x")]
    options = FeatureOptions(find_url=lambda url: None)
    plan = plan_items(Toy(), records, list("abcd"), tmp_path, options)
    assert (plan.items, plan.unique, plan.problems) == (4, 3, [])
    files: dict[str, Path | str] = {
        "http://host/x": tmp_path / "0.txt", "http://host/y": tmp_path / "0.txt",
        "http://host/gone": "not downloaded: HTTP 404 Not Found",
    }  # fmt: skip
    options = FeatureOptions(find_url=files.__getitem__)
    features = encode_items(Toy(), records, list("abcd"), None, options)
    assert features.present.tolist() == [True, True, False, True]
    assert features.encoded == 1
    (problem,) = features.problems
    assert (problem.item_id, problem.path) == ("c", "http://host/gone")
    assert problem.reason == "not downloaded: HTTP 404 Not Found"


@pytest.mark.parametrize("place", range(0, 72, 8))
def test_a_shard_of_which_a_byte_changed_is_encoded_again(tmp_path: Path, place: int) -> None:
    """Two keys of 32 bytes and two vectors of 8: a changed vector is never believed."""
    records, ids = _files(tmp_path, ["a", "bb"])
    options = FeatureOptions(cache_dir=tmp_path / "cache", dtype="float32")
    first = encode_items(Toy(), records, ids, tmp_path, options)
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1 - place] ^= 1
    shard.write_bytes(content)
    again = encode_items(Toy(), records, ids, tmp_path, options)
    assert np.array_equal(first.values[:], again.values[:])
    assert again.encoded > 0
    assert "1 unreadable" in again.notes[0]


def test_a_download_of_which_a_byte_changed_is_no_item_s_picture(tmp_path: Path) -> None:
    """A file of the user's own that has such a name stays where it is."""
    cache = MediaCache(tmp_path / "cache")
    with cache.download() as file:
        file.write(b"picture")
        file.keep("http://host/a.jpg", "jpg")
    path = cache.find("http://host/a.jpg")
    assert path is not None
    own = tmp_path / "content" / path.parent.name / path.name
    own.parent.mkdir(parents=True)
    own.write_bytes(b"another")
    path.write_bytes(b"pictvre")
    options = FeatureOptions(cache_dir=tmp_path / "cache", find_url=cache.find)
    records = [{"image": "http://host/a.jpg"}, {"image": str(own.relative_to(tmp_path))}]
    features = encode_items(Toy(), records, ["a", "b"], tmp_path, options)
    assert features.present.tolist() == [False, True]
    assert "download was damaged" in features.problems[0].reason
    assert own.read_bytes() == b"another"
    assert cache.find("http://host/a.jpg") is None


def test_a_damaged_shard_is_encoded_again_and_told(tmp_path: Path) -> None:
    records, ids = _files(tmp_path, ["a", "bb"])
    options = FeatureOptions(cache_dir=tmp_path / "cache")
    encode_items(Toy(), records, ids, tmp_path, options)
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-3])
    features = encode_items(Toy(), records, ids, tmp_path, options)
    assert features.encoded == 2
    assert "1 unreadable" in features.notes[0]


def test_real_encoders_over_a_small_catalogue(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_text("no picture")
    records = [{"title": f"Film {n}", "image": f"{n}.png"} for n in range(6)]
    ids = [str(number) for number in range(6)]
    one, two = (
        encode_items(ImageEncoder(), records, ids, tmp_path, FeatureOptions(3, workers))
        for workers in (0, 2)
    )
    assert np.array_equal(one.values, two.values)
    assert one.present.tolist() == [True] * 4 + [False] * 2
    assert [problem.reason for problem in one.problems] == ["no such file", "not a picture"]
    text = encode_items(TextEncoder(), records, ids, tmp_path, FeatureOptions(3))
    assert text.present.all()
    assert text.values.shape == (6, 384)
