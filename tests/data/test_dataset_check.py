"""Files that are no data set of ours: each is refused with what is wrong and where."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from altered import altered, without_checksums
from toy_data import write_toy_data

from cammsr_cli.data.checksums import PIECE, CheckedFile, DamagedDataError, add_checksums
from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.dataset_file import opened
from cammsr_cli.data.dataset_write import write_dataset
from cammsr_cli.errors import CammsrError


def _put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """Writes an array anew, as another one."""

    def put(file: h5py.File) -> None:
        values = change(file[name][()])
        del file[name]
        file[name] = values

    return put


def _set(name: str, place: int, value: int) -> Callable[[h5py.File], None]:
    def put(file: h5py.File) -> None:
        file[name][place] = value

    return put


def _made(name: str, **how: object) -> Callable[[h5py.File], None]:
    """Makes an array anew, stored in another way."""

    def make(file: h5py.File) -> None:
        given = {"shape": file[name].shape, "dtype": file[name].dtype, **how}
        del file[name]
        file.create_dataset(name, **given)

    return make


def _linked(name: str, link: object) -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return make


def _virtual(file: h5py.File) -> None:
    length = len(file["events/item"])
    layout = h5py.VirtualLayout((length,), "<i4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (length,))
    del file["events/item"]
    file.create_virtual_dataset("events/item", layout)


def _renamed(old: str, new: str) -> Callable[[h5py.File], None]:
    return lambda file: file.move(old, new)


def _null(name: str) -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        del file[name]
        file[name] = h5py.Empty("<i4")

    return make


def _attribute(of: str, name: str, value: object) -> Callable[[h5py.File], None]:
    def put(file: h5py.File) -> None:
        file[of].attrs[name] = value

    return put


def _deep(file: h5py.File) -> None:
    file["items/self"] = file["items"]


HOSTILE = {
    "big-endian items": (_put("events/item", lambda x: x.astype(">i4")), "events/item holds >i4"),
    "big-endian vectors": (
        _put("features/text/values", lambda x: x.astype(">f2")),
        "features/text/values holds >f2",
    ),
    "items of another type": (_put("events/item", lambda x: x.astype("<f8")), "holds <f8"),
    "vectors of integers": (_put("features/text/values", lambda x: x.astype("<i2")), "holds <i2"),
    "a mask of numbers": (_put("features/text/present", lambda x: x.astype("u1")), "not bool"),
    "items out of range": (_set("events/item", 7, 40), "events/item holds 40 at 7"),
    "negative items": (_set("events/item", 7, -1), "events/item holds -1 at 7"),
    "falling bounds": (_set("events/indptr", 1, 10_000), "events/indptr does not rise"),
    "bounds that begin late": (_set("events/indptr", 0, 1), "does not rise from 0 to"),
    "bounds that end early": (_set("events/indptr", 60, 1), "does not rise from 0 to"),
    "falling times": (_set("events/time", 1, -5), "events/time falls within a user at 1"),
    "a part that is none": (_set("splits/leave_one_out", 3, 3), "leave_one_out holds 3 at 3"),
    "a category out of range": (_set("items/categories/index", 2, 4), "index holds 4 at 2"),
    "falling categories": (_set("items/categories/indptr", 1, 9), "categories/indptr does not"),
    "fewer events than times": (_put("events/item", lambda x: x[:-1]), "has the shape"),
    "fewer users than bounds": (_put("events/indptr", lambda x: x[:-1]), "has the shape"),
    "fewer vectors than items": (_put("features/text/values", lambda x: x[:-1]), "has the shape"),
    "a vector for all": (_put("features/text/values", lambda x: x[0]), "has the shape"),
    "a scalar": (_put("events/item", lambda x: x[0]), "events/item is not an array"),
    "no dataspace": (_null("events/item"), "events/item is not an array"),
    "16 GiB that are not there": (
        _made("events/item", shape=(2**32,)),
        "not as long as its shape says",
    ),
    "compressed": (_made("events/item", compression="gzip"), "not stored in one piece"),
    "chunked": (_made("events/item", chunks=(8,)), "not stored in one piece"),
    "in another file": (
        _made("events/item", external=[("/etc/passwd", 0, 2**20)]),
        "stored in another file",
    ),
    "virtual": (_virtual, "not stored in one piece"),
    "external link": (
        _linked("events/item", h5py.ExternalLink("/etc/passwd", "/x")),
        "events/item is a link to somewhere else",
    ),
    "external group": (
        _linked("features/text", h5py.ExternalLink("other.h5", "/features/text")),
        "features/text is a link",
    ),
    "soft link": (_linked("events/item", h5py.SoftLink("/events/time")), "is a link"),
    "dangling link": (_linked("items/fields/title", h5py.SoftLink("/none")), "is a link"),
    "a group in itself": (_deep, "is a group where none belongs"),
    "a group for an array": (
        lambda file: (file.pop("events/time"), file.create_group("events/time")),
        "events/time is missing",
    ),
    "no events": (lambda file: file.pop("events"), "events/indptr is missing"),
    "no fields": (lambda file: file.pop("items/fields"), "items/fields is missing"),
    "no features": (lambda file: file.pop("features"), "features is missing"),
    "a type for an array": (
        lambda file: file.__setitem__("items/type", np.dtype("<i4")),
        "neither an array nor a group",
    ),
    "a path for a modality": (_renamed("features/text", "features/.."), "no name of a modality"),
    "id for a modality": (_renamed("features/text", "features/id"), "no name of a modality"),
    "numbers for titles": (
        _put("items/fields/title", lambda x: np.zeros(len(x))),
        "title holds <f8, not texts",
    ),
    "titles of fixed length": (
        _put("items/fields/title", lambda x: np.zeros(len(x), "S4")),
        "title holds |S4, not texts",
    ),
    "an encoder of no name": (_attribute("features/text", "encoder", 3), "encoder of /features"),
    "fields that are no list": (_attribute("features/text", "fields", "{}"), "list of names"),
    "fields that are no JSON": (_attribute("features/text", "fields", "[" * 9999), "not JSON"),
    "sources that are no JSON": (_attribute("/", "sources", "{"), "sources is not JSON"),
    "sources that are no table": (_attribute("/", "sources", "[1]"), "sources is not a table"),
    "no tool": (lambda file: file.attrs.pop("tool"), "the attribute tool of / is not a text"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_toy_data(tmp_path / "toy.h5")


@pytest.mark.parametrize(("change", "told"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused(data: Path, change: Callable, told: str) -> None:
    with altered(data) as file:
        change(file)
    with pytest.raises(DamagedDataError, match=re.escape(told)) as caught:
        _read_all(DataSet(data))
    assert str(data) in caught.value.message
    assert f"cammsr prepare ... --out {data} --force" in (caught.value.hint or "")


def test_a_hostile_history_is_refused(data: Path) -> None:
    """Where only some users' events are read, these are looked at."""
    with altered(data) as file:
        first = int(file["events/indptr"][3])
        file["events/item"][first] = 99
    found = DataSet(data)
    found.histories(np.array([0, 5]))
    with pytest.raises(DamagedDataError, match="events/item holds 99"):
        found.histories(np.array([3]))
    with altered(data) as file:
        file["events/item"][first] = 0
        file["events/time"][first + 1] = -1
    with pytest.raises(DamagedDataError, match="events/time falls within a user"):
        found.histories(np.array([0, 3]))


def test_times_may_fall_where_the_order_is_that_of_the_raw_file(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,timestamp\n" + "".join(f"u,i{n},{1_500 - n}\n" for n in range(6)))
    write_dataset(tmp_path / "d.h5", read_corpus(SourceOptions(log, order="file")), {})
    found = DataSet(tmp_path / "d.h5")
    found.verify()
    assert found.event_time.tolist() == [1_500 - n for n in range(6)]
    assert found.histories(np.array([0])).time.tolist() == found.event_time.tolist()


def test_names_that_stand_twice_are_found_when_all_is_verified(data: Path) -> None:
    with altered(data) as file:
        file["items/id"][3] = "i5"
        from cammsr_cli.data.dataset_file import digest

        file.attrs["content"] = digest(file)
    with pytest.raises(DamagedDataError, match="items/id names one twice"):
        DataSet(data).verify()


def test_merge_refuses_what_leads_out_of_a_part(tmp_path: Path) -> None:
    part = write_toy_data(tmp_path / "x.h5")
    with altered(part) as file:
        file.attrs["shard"], file.attrs["corpus"] = "1/1", "x"
        file["items/secret"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(DamagedDataError, match="items/secret is a link"), opened(part):
        pass


# --- checksums ----------------------------------------------------------------------------------


def test_a_changed_byte_is_told_with_its_place(data: Path) -> None:
    content = data.read_bytes()
    for place in (len(content) // 3, len(content) // 2):
        data.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        with pytest.raises(DamagedDataError, match=r"bytes 0 to [0-9,]+ are not those that were"):
            _read_all(DataSet(data))


def test_damaged_vectors_are_told_though_they_are_mapped(tmp_path: Path) -> None:
    data = write_toy_data(tmp_path / "wide.h5", items=4, dim=2**18)  # of two pieces
    with h5py.File(data) as file:
        values = file["features/text/values"]
        first, size = values.id.get_offset(), values.nbytes
    assert size == 2 * PIECE
    with data.open("rb+") as stream:
        stream.seek(first + size // 2)
        stream.write(b"\7\7\7")
    found = DataSet(data)  # what lies elsewhere is sound
    assert len(found.item_ids) == 4
    assert found.vectors("image")[0].shape == (4, 2**18)
    with pytest.raises(DamagedDataError, match="are not those that were written"):
        found.vectors("text")
    with pytest.raises(DamagedDataError, match="are not those that were written"):
        found.verify()


@pytest.mark.parametrize("cut", [1, 16, 40, 57, 100])
def test_checksums_that_are_cut_are_told(data: Path, cut: int) -> None:
    data.write_bytes(data.read_bytes()[:-cut])
    with pytest.raises(CammsrError, match="damaged"):
        DataSet(data)


@pytest.mark.parametrize("place", [1, 17, 49, 56, 60])
def test_checksums_that_are_changed_are_told(data: Path, place: int) -> None:
    content = bytearray(data.read_bytes())
    content[-place] ^= 1
    data.write_bytes(content)
    with pytest.raises(CammsrError, match="damaged"):
        DataSet(data)


def test_another_tool_that_changes_the_file_is_told(data: Path) -> None:
    with h5py.File(data, "r+") as file:
        file["events/item"][0] = 1
    with pytest.raises(DamagedDataError, match=r"checksums are missing.*changed by another tool"):
        DataSet(data)


def test_a_file_of_an_older_cammsr_is_read_and_told_of(data: Path) -> None:
    before = DataSet(data)
    assert before.remarks == []
    found = DataSet(without_checksums(data))
    _read_all(found)
    found.verify()
    (remark,) = found.remarks
    assert "without checksums" in remark
    assert f"cammsr info {data} --verify" in remark
    assert found.content == before.content


def test_damage_in_a_file_of_an_older_cammsr_is_found_when_all_is_verified(data: Path) -> None:
    with h5py.File(without_checksums(data), "r+") as file:
        file["features/text/values"][3, 1] += 1
    found = DataSet(data)
    with pytest.raises(DamagedDataError, match="its content is not that of its digest"):
        found.verify()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_what_is_read_is_what_was_written(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "x"
    path.write_bytes(content)
    add_checksums(path)
    with CheckedFile(path) as file:
        assert file.checked
        assert file.read() == content
        for start, length in ((size // 2, 10), (max(0, size - 3), 10), (PIECE - 2, 5)):
            assert file.seek(start) == file.tell() == start
            assert file.read(length) == content[start : start + length]
        assert file.seek(0, 2) == size
        file.check()


def test_a_file_that_is_replaced_while_it_is_read_is_told(data: Path, tmp_path: Path) -> None:
    found = DataSet(data)
    assert len(found.item_ids) == 40
    write_toy_data(tmp_path / "other.h5", seed=1).replace(data)
    for read in (lambda: found.event_item, lambda: found.vectors("text"), found.verify):
        with pytest.raises(CammsrError, match="has been replaced while it was being read"):
            read()


def _read_all(data: DataSet) -> None:
    """Everything that commands read."""
    _ = data.user_ids, data.item_ids, data.event_item, data.event_time, data.event_part
    _ = data.categories, data.category_labels()
    for name in data.field_names:
        data.field(name)
    for name in data.modalities:
        data.vectors(name)
        data.inputs(name)
