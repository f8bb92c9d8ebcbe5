"""The prepared data set: what goes in comes out, the same input gives the same bytes."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from altered import without_checksums

from cammsr_cli.data.corpus import Corpus
from cammsr_cli.data.dataset import DataSet, ModalityInfo
from cammsr_cli.data.dataset_write import ModalityVectors, write_dataset
from cammsr_cli.data.summary import summarise
from cammsr_cli.errors import CammsrError


def _corpus(**changed) -> Corpus:
    corpus = Corpus(
        user_ids=["anna", "Bü ro", "三"],
        item_ids=["a", "b", "c", "d"],
        fields={
            "title": ["Алиса", None, 'ç, "quoted"\nsecond line', "d 🎬"],
            "image": ["a.jpg", "b c.png", None, None],
        },
        item_rows=[0, 1, 2, None],
        listed_rows=4,
        category_names=["drama", "crime"],
        category_indptr=np.array([0, 2, 2, 3, 4], dtype=np.int64),
        category_index=np.array([0, 1, 1, 0], dtype=np.int32),
        event_indptr=np.array([0, 3, 3, 5], dtype=np.int64),
        event_item=np.array([0, 2, 1, 3, 3], dtype=np.int32),
        event_time=np.array([-5, 10, 2**40, 7, 7], dtype=np.int64),
        event_part=np.array([0, 1, 2, 0, 2], dtype=np.uint8),
        sources={"ratings.csv": "ab" * 32},
        notes=["1 event dropped"],
    )
    return dataclasses.replace(corpus, **changed)


def _modalities(**changed) -> dict[str, ModalityVectors]:
    text = ModalityVectors(
        np.arange(12, dtype=np.float16).reshape(4, 3),
        np.array([True, False, True, True]),
        ModalityInfo(3, "text", "toy 1.0 seed=3", ("title", "description")),
    )
    image = ModalityVectors(
        np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2),
        np.array([True, True, False, False]),
        ModalityInfo(2, "image", "pixels 2", ("image",)),
    )
    return {"text": dataclasses.replace(text, **changed), "image": image}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "a shop" / "data.h5"
    write_dataset(path, _corpus(), _modalities())
    return path


def test_summary_tells_weights_and_what_could_not_be_read(tmp_path: Path) -> None:
    inputs = np.zeros((4, 32), np.uint8)
    inputs[[0, 1], 31] = 7  # item 1 had something, and has no vector
    info = ModalityInfo(3, "text", '{"weights": "org/model@abc"}', ("title",))
    write_dataset(tmp_path / "x.h5", _corpus(), _modalities(inputs=inputs, info=info))
    found = summarise(tmp_path / "x.h5").modalities
    assert (found["text"].undecodable, found["text"].weights) == (1, "org/model@abc")
    assert (found["image"].undecodable, found["image"].weights) == (None, None)
    assert DataSet(tmp_path / "x.h5").inputs("text").tolist() == inputs.tolist()


def test_round_trip(written: Path) -> None:
    data, corpus = DataSet(written), _corpus()
    assert data.user_ids == corpus.user_ids
    assert data.item_ids == corpus.item_ids
    assert data.field_names == ["image", "title"]
    assert data.field("title") == [value or "" for value in corpus.fields["title"]]
    assert data.field("image") == ["a.jpg", "b c.png", "", ""]
    assert data.field("description") == [""] * 4
    assert data.category_names == corpus.category_names
    for ours, expected in [
        (data.event_indptr, corpus.event_indptr),
        (data.event_item, corpus.event_item),
        (data.event_time, corpus.event_time),
        (data.event_part, corpus.event_part),
        (data.categories[0], corpus.category_indptr),
        (data.categories[1], corpus.category_index),
    ]:
        assert ours.dtype == expected.dtype
        assert ours.tolist() == expected.tolist()
    assert data.sources == corpus.sources


def test_texts_of_some_items_by_hand(written: Path) -> None:
    data = DataSet(written)
    assert data.fields_of(["title", "image", "colour"], [3, 0, 1]) == {
        "title": ["d 🎬", "Алиса", ""],
        "image": ["", "a.jpg", "b c.png"],
        "colour": ["", "", ""],
    }
    assert data.fields_of(["title"], []) == {"title": []}


@pytest.mark.parametrize(
    ("users", "indptr", "item"),
    [
        ([0, 1, 2], [0, 3, 3, 5], [0, 2, 1, 3, 3]),  # all, in one piece
        ([2, 0], [0, 2, 5], [3, 3, 0, 2, 1]),
        ([0, 2, 2], [0, 3, 5, 7], [0, 2, 1, 3, 3, 3, 3]),
        ([1], [0, 0], []),  # a user without events
    ],
)
def test_histories_by_hand(written: Path, users: list[int], indptr: list[int], item: list) -> None:
    data = DataSet(written)
    found = data.histories(np.array(users))
    assert found.indptr.tolist() == indptr
    assert found.item.tolist() == item
    time_of = [data.event_time[data.event_indptr[u] : data.event_indptr[u + 1]] for u in users]
    assert found.time.tolist() == np.concatenate(time_of).tolist()
    tied_of = [data.event_tied[data.event_indptr[u] : data.event_indptr[u + 1]] for u in users]
    assert found.tied.tolist() == np.concatenate(tied_of).tolist()
    assert (found.item.dtype, found.time.dtype) == (np.int32, np.int64)


def test_ties_are_stored_where_times_do_not_tell_them(tmp_path: Path, written: Path) -> None:
    assert DataSet(written).event_tied.tolist() == [False, False, False, False, True]
    for tied, stored in (([0, 0, 0, 0, 1], False), ([0, 0, 0, 0, 0], True)):
        path = tmp_path / "other.h5"
        write_dataset(path, _corpus(event_tied=np.array(tied, dtype=np.bool_)), _modalities())
        with h5py.File(path) as file:
            assert ("events/tied" in file) == stored
        assert DataSet(path).event_tied.tolist() == [bool(one) for one in tied]
        assert (DataSet(path).content == DataSet(written).content) == (not stored)


def test_what_users_rejected_is_found_again(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "other.h5"
    rejected = np.array([0, 0, 1]), np.array([3, 0, 2]), np.array([0, 2, 0])
    write_dataset(path, _corpus(rejected=rejected), _modalities())
    data = DataSet(path)
    for users, expected in (
        ([0, 1, 2], [(0, 3, 0), (0, 0, 2), (1, 2, 0)]),
        ([2, 1, 0], [(1, 2, 0), (2, 3, 0), (2, 0, 2)]),
        ([2], []),
    ):
        pairs = zip(*(one.tolist() for one in data.rejected(np.array(users))), strict=True)
        assert list(pairs) == expected
    # Files of an older cammsr do not say when: as if after all of the user's events.
    with h5py.File(without_checksums(path), "r+") as file:
        del file["events/rejected_place"]
    assert DataSet(path).rejected(np.array([0, 1]))[2].tolist() == [3, 3, 0]
    assert not len(DataSet(written).rejected(np.array([0]))[0])


def test_rejections_beyond_a_user_s_events_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    write_dataset(path, _corpus(rejected=(np.array([0]), np.array([3]), np.array([4]))), {})
    with pytest.raises(CammsrError, match="rejected_place is beyond the events of its user"):
        DataSet(path).verify()


def test_weights_of_events_are_found_again(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "other.h5"
    weight = np.array([1, 0.2, 1, 5, 1], dtype=np.float32)
    write_dataset(path, _corpus(event_weight=weight), _modalities())
    assert DataSet(path).event_weight.tolist() == weight.tolist()
    assert DataSet(written).event_weight is None
    assert DataSet(path).content != DataSet(written).content
    weight[1] = 0
    write_dataset(path, _corpus(event_weight=weight), _modalities())
    with pytest.raises(CammsrError, match=r"events/weight holds 0\.0 at 1"):
        DataSet(path).verify()


def test_vectors_round_trip_with_their_type_and_origin(written: Path) -> None:
    data = DataSet(written)
    assert set(data.modalities) == {"text", "image"}
    for name, expected in _modalities().items():
        values, present = data.vectors(name)
        assert values.dtype == expected.values.dtype
        np.testing.assert_array_equal(values, expected.values)
        assert present.dtype == np.bool_
        assert present.tolist() == expected.present.tolist()
        assert data.modalities[name] == expected.info


def test_vectors_are_mapped_from_the_file_and_held_by_nobody(written: Path) -> None:
    """They may be larger than memory; and what is done to them does not reach the file."""
    before = written.read_bytes()
    values, _ = DataSet(written).vectors("text")
    assert isinstance(values, np.memmap)
    assert Path(values.filename) == written
    values[:] = 7
    again, _ = DataSet(written).vectors("text")
    np.testing.assert_array_equal(again, _modalities()["text"].values)
    assert written.read_bytes() == before


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [1, 3, 1000])
def test_mapped_vectors_are_those_h5py_reads(tmp_path: Path, dtype, dim: int) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(4, dim)).astype(dtype)
    values[0, 0], values[1, 0], values[2, 0] = np.nan, np.inf, -0.0
    write_dataset(tmp_path / "x.h5", _corpus(), _modalities(values=values))
    with h5py.File(tmp_path / "x.h5") as file:
        stored = file["features/text/values"][()]
    found, _ = DataSet(tmp_path / "x.h5").vectors("text")
    assert found.dtype == stored.dtype == dtype
    assert found.tobytes() == stored.tobytes() == values.tobytes()


def test_a_modality_of_nothing_can_be_read(tmp_path: Path) -> None:
    empty = _modalities(
        values=np.zeros((4, 0), dtype=np.float16), present=np.zeros(4, dtype=np.bool_)
    )
    write_dataset(tmp_path / "x.h5", _corpus(), empty)
    values, present = DataSet(tmp_path / "x.h5").vectors("text")
    assert values.shape == (4, 0)
    assert values.dtype == np.float16
    assert present.tolist() == [False] * 4


def test_category_labels_by_hand(written: Path) -> None:
    data = DataSet(written)
    assert data.category_labels().tolist() == [[1, 1], [0, 0], [0, 1], [1, 0]]
    assert [data.item_categories(i) for i in range(4)] == [
        ["drama", "crime"], [], ["crime"], ["drama"],
    ]  # fmt: skip


def test_the_same_input_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.h5"
    shuffled = _corpus(fields=dict(reversed(_corpus().fields.items())))
    write_dataset(again, shuffled, dict(reversed(_modalities().items())))
    assert again.read_bytes() == written.read_bytes()
    assert DataSet(again).content == DataSet(written).content


def _altered(array: np.ndarray) -> np.ndarray:
    altered = array.copy()
    altered.flat[-1] += 1
    return altered


CHANGES = {
    "user_ids": {"user_ids": ["anna", "Bü ro", "四"]},
    "item_ids": {"item_ids": ["a", "b", "c", "e"]},
    "title": {"fields": {**_corpus().fields, "title": ["Алиса", None, None, "d 🎬"]}},
    "field name": {"fields": {"titles": _corpus().fields["title"], "image": ["", "", "", ""]}},
    "category names": {"category_names": ["drama", "comedy"]},
    **{
        name: {name: _altered(getattr(_corpus(), name))}
        for name in ("category_index", "event_item", "event_time", "event_part")
    },
    "event_indptr": {"event_indptr": np.array([0, 2, 3, 5], dtype=np.int64)},
    "category_indptr": {"category_indptr": np.array([0, 1, 2, 3, 4], dtype=np.int64)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_digest_changes_with_any_value_of_the_corpus(written, tmp_path, change) -> None:
    other = tmp_path / "other.h5"
    write_dataset(other, _corpus(**change), _modalities())
    assert DataSet(other).content != DataSet(written).content


@pytest.mark.parametrize(
    "change",
    [
        {"values": _altered(_modalities()["text"].values)},
        {"values": _modalities()["text"].values.astype(np.float32)},
        {"values": _modalities()["text"].values.reshape(3, 4)},
        {"present": np.array([True, True, True, True])},
        {"inputs": np.zeros((4, 32), np.uint8)},
        {"info": ModalityInfo(3, "text", "toy 1.0 seed=4", ("title", "description"))},
        {"info": ModalityInfo(3, "words", "toy 1.0 seed=3", ("title", "description"))},
        {"info": ModalityInfo(3, "text", "toy 1.0 seed=3", ("title",))},
    ],
    ids=["values", "dtype", "shape", "present", "inputs", "fingerprint", "encoder", "fields"],
)
def test_the_digest_changes_with_anything_of_a_modality(written, tmp_path, change) -> None:
    other = tmp_path / "other.h5"
    write_dataset(other, _corpus(), _modalities(**change))
    assert DataSet(other).content != DataSet(written).content


def test_where_the_files_came_from_is_no_content(written, tmp_path) -> None:
    other = tmp_path / "other.h5"
    write_dataset(other, _corpus(sources={"log.csv": "cd" * 32}), _modalities())
    assert DataSet(other).content == DataSet(written).content


def test_a_data_set_without_categories_or_modalities(tmp_path: Path) -> None:
    path = tmp_path / "bare.h5"
    bare = _corpus(
        fields={"title": [None] * 4},
        category_names=[],
        category_indptr=np.zeros(5, dtype=np.int64),
        category_index=np.zeros(0, dtype=np.int32),
    )
    write_dataset(path, bare, {})
    data = DataSet(path)
    assert data.modalities == {}
    assert data.category_names == []
    assert data.category_labels().shape == (4, 0)
    assert data.item_categories(0) == []
    assert data.field("title") == [""] * 4


def test_a_data_set_without_any_item_field(tmp_path: Path) -> None:
    write_dataset(tmp_path / "bare.h5", _corpus(fields={}), _modalities())
    data = DataSet(tmp_path / "bare.h5")
    assert data.field_names == []
    assert data.field("title") == [""] * 4


@pytest.mark.parametrize("schema", ["1.0.0", 1])
def test_a_foreign_file_with_a_schema_of_its_own_is_told(tmp_path: Path, schema) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file.attrs["schema"] = schema
    with pytest.raises(CammsrError, match="not a cammsr data set"):
        DataSet(tmp_path / "foreign.h5")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CammsrError, match=r"no such data set: .*nowhere\.h5") as caught:
        DataSet(tmp_path / "nowhere.h5")
    assert "cammsr prepare" in (caught.value.hint or "")
    with pytest.raises(CammsrError, match="is a folder, not a data set"):
        DataSet(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.99])
def test_a_truncated_file_is_told(written: Path, kept: float) -> None:
    content = written.read_bytes()
    length = kept if isinstance(kept, int) else int(len(content) * kept)
    written.write_bytes(content[:length])
    with pytest.raises(CammsrError, match="damaged, cut short") as caught:
        DataSet(written)
    assert caught.value.exit_code == 1
    assert "cammsr prepare" in (caught.value.hint or "")


def test_something_else_is_told(tmp_path: Path) -> None:
    text = tmp_path / "ratings.csv"
    text.write_text("user,item\n1,2\n")
    with pytest.raises(CammsrError, match="not a readable HDF5 file"):
        DataSet(text)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(CammsrError, match="not a cammsr data set"):
        DataSet(foreign)


def test_another_schema_is_told_with_who_wrote_it(written: Path) -> None:
    with h5py.File(written, "a") as file:
        file.attrs["schema"] = 99
        file.attrs["tool"] = "cammsr 9.9"
    with pytest.raises(CammsrError, match=r"schema 99, written by cammsr 9.9.*reads schema 1"):
        DataSet(written)


def test_a_failed_write_leaves_the_old_data_set(written: Path) -> None:
    before = written.read_bytes()
    broken = _modalities(values=np.array([object()]))
    with pytest.raises(TypeError):
        write_dataset(written, _corpus(), broken)
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_a_data_set_can_be_sent_to_another_process(written: Path) -> None:
    data = pickle.loads(pickle.dumps(DataSet(written)))
    assert data.item_ids == ["a", "b", "c", "d"]
    written.unlink()  # no handle is held that would keep it


def test_summary_counts_by_hand(written: Path) -> None:
    found = dataclasses.asdict(summarise(written))
    assert found["counts"] == {
        "users": 3, "items": 4, "events": 5, "training events": 2, "validation events": 1,
        "test events": 2, "categories": 2,
    }  # fmt: skip
    assert found["modalities"]["text"] == {
        "dim": 3, "dtype": "float16", "present": 3, "missing": 1, "undecodable": None,
        "encoder": "text", "weights": None, "fingerprint": "toy 1.0 seed=3",
        "fields": ["title", "description"],
    }  # fmt: skip
    assert found["content"] == DataSet(written).content
    assert found["sources"] == {"ratings.csv": "ab" * 32}
