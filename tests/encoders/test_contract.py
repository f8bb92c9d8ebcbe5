"""Each check of the contract passes a sound encoder and catches the fault it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cammsr_encoders import contract
from cammsr_encoders.contract import CHECKS, ContractBroken, Trial, findings
from cammsr_encoders.example_items import bad_items, example_items, odd_items
from cammsr_encoders.protocol import BadSample
from cammsr_encoders.testing import EncoderContract
from numpy.typing import NDArray


class Sound:
    """Counts letters and bytes; what every faulty one below is but for its fault.

    Args:
        device: Where it runs.
        power: What counts are raised to,
            on two lines.
        chatty (bool): Changes nothing.
    """

    api: Any = 1
    modality: Any = "toy"
    fields: Any = ("title", "image")
    dim: Any = 2

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        power: int | str = 1,
        chatty: bool = False,
    ) -> None:
        self.device, self.precision, self.power = device, precision, int(power)

    @property
    def fingerprint(self) -> str:
        return f"toy 1 power={self.power}"

    def load(self, item: Mapping[str, str]) -> list[int]:
        content = b"" if "image" not in item else Path(item["image"]).read_bytes()
        if "image" in item and not content.startswith((b"\x89PNG", b"\xff\xd8")):
            raise BadSample("no picture")
        if content and not content.endswith((b"IEND\xaeB`\x82", b"\xff\xd9")):
            raise BadSample("cut short")
        return [len(item.get("title", "")), len(content)]

    def encode(self, samples: list[Any]) -> NDArray[Any]:
        counts = np.array(samples, np.float32).reshape(-1, 2)
        return np.log1p(counts) ** np.float32(self.power)


class TestSound(EncoderContract):
    """The suite, as a stranger uses it."""

    kind = Sound
    changing: Mapping[str, Any] = {"power": "2"}
    neutral: Mapping[str, Any] = {"chatty": True}


class NoApi(Sound):
    api = 2


class BadModality(Sound):
    modality = "My Modality"


class ListOfFields(Sound):
    fields = ["title", "image"]  # noqa: RUF012


class NoDim(Sound):
    dim = "2"


class Heavy(Sound):
    @property
    def fingerprint(self) -> str:
        import torch  # noqa: F401

        return super().fingerprint


class HeavyToMake(Sound):
    def __init__(self, *args: Any, **options: Any) -> None:
        import torch  # noqa: F401

        super().__init__(*args, **options)


class Doubles(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples).astype(np.float64)


class Flat(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples).ravel()


class Infinite(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples) / np.float32(0) if samples else super().encode(samples)


class Holey(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        vectors = super().encode(samples)
        vectors[:, 0] = np.nan
        vectors[vectors > 5] = np.inf
        return vectors


class Large(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples) * np.float32(1e5)


class Constant(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return np.ones_like(super().encode(samples))


class Random(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        noise = np.random.default_rng().normal(size=(len(samples), 2))
        return super().encode(samples) + noise.astype(np.float32)


class RandomWeights(Sound):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight = np.float32(np.random.default_rng().normal())

    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples) * self.weight


class Hashed(Sound):
    def load(self, item: Mapping[str, str]) -> list[int]:
        return [hash(item.get("title")) % 1000, super().load(item)[1]]


class Normalized(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        vectors = super().encode(samples)
        return vectors - vectors.mean(0) if samples else vectors


class Sorted(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(sorted(samples))


class NoEmpty(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples) if samples else np.zeros(0, np.float32)


class TakesAll(Sound):
    def load(self, item: Mapping[str, str]) -> list[int]:
        try:
            return super().load(item)
        except (OSError, BadSample):
            return [0, 0]


class RaisesAnything(Sound):
    def load(self, item: Mapping[str, str]) -> list[int]:
        try:
            return super().load(item)
        except (OSError, BadSample):
            raise RuntimeError("oops") from None


class Remembers(Sound):
    """Once it has met a bad item, all its vectors are others."""

    refused = 0

    def load(self, item: Mapping[str, str]) -> list[int]:
        try:
            return super().load(item)
        except (OSError, BadSample):
            self.refused = 1
            raise

    def encode(self, samples: list[Any]) -> NDArray[Any]:
        return super().encode(samples) + np.float32(self.refused)


class ChokesOnSurrogates(Sound):
    def load(self, item: Mapping[str, str]) -> Any:
        return [*super().load(item), item.get("title", "")]

    def encode(self, samples: list[Any]) -> NDArray[Any]:
        for *_, title in samples:
            title.encode()
        return super().encode([sample[:2] for sample in samples])


class ReadsMore(Sound):
    def load(self, item: Mapping[str, str]) -> list[int]:
        return [len(item.get("description", "")), *super().load(item)][-2:]


class ReadsLess(Sound):
    fields = ("title", "image", "video")


class NeedsAll(Sound):
    def load(self, item: Mapping[str, str]) -> list[int]:
        return [len(item["title"]), super().load(item)[1]]


class Unpicklable(Sound):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.score = lambda value: value


class Heavyweight(Sound):
    def encode(self, samples: list[Any]) -> NDArray[Any]:
        self.network = np.ones(1_000_000)
        return super().encode(samples)


class DiesElsewhere(Sound):
    def __setstate__(self, state: dict[str, Any]) -> None:
        os._exit(3)


class OtherElsewhere(Sound):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.moved = True

    def load(self, item: Mapping[str, str]) -> list[int]:
        letters, size = super().load(item)
        return [letters + hasattr(self, "moved"), size]


class OneFingerprint(Sound):
    fingerprint = "toy"  # type: ignore[assignment]


class RandomFingerprint(Sound):
    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {id(self)}"


class DeviceInFingerprint(Sound):
    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {self.device}"


class RoughInSecret(Sound):
    """Its vectors change with the precision, its fingerprint does not."""

    def encode(self, samples: list[Any]) -> NDArray[Any]:
        rough = self.precision == "bfloat16"
        return super().encode(samples) + np.float32(0.01 * rough)


class TakesAnyOption(Sound):
    def __init__(self, model: str | None = None, **anything: Any) -> None:
        super().__init__(model)


FAULTS = [
    (NoApi, "says_what_it_is", "`api` must be 1"),
    (BadModality, "says_what_it_is", "'My Modality'"),
    (ListOfFields, "says_what_it_is", "must be a tuple"),
    (NoDim, "says_what_it_is", "`dim` is '2'"),
    (Heavy, "is_cheap_until_used", "imports torch"),
    (HeavyToMake, "is_cheap_until_used", "imports torch"),
    (Doubles, "vectors_have_shape_and_type", r"float64 \[4, 2\].*must be float32 \[4, 2\]"),
    (Flat, "vectors_have_shape_and_type", r"float32 \[8\]"),
    (Infinite, "vectors_have_shape_and_type", "NaN or infinity"),
    (Large, "vectors_have_shape_and_type", "does not fit float16"),
    (Constant, "vectors_have_shape_and_type", "all got the same vector"),
    (Random, "is_deterministic", "same batch encoded twice"),
    (RandomWeights, "is_deterministic", "second encoder"),
    (Hashed, "is_deterministic", "another process"),
    (Normalized, "does_not_depend_on_the_batch", "one by one"),
    (Sorted, "keeps_the_order", "in reverse order"),
    (NoEmpty, "takes_an_empty_batch", r"float32 \[0\]; it must be float32 \[0, 2\]"),
    (TakesAll, "a_bad_item_is_refused_alone", "for good; raise BadSample"),
    (RaisesAnything, "a_bad_item_is_refused_alone", r"RuntimeError \(oops\)"),
    (Remembers, "a_bad_item_is_refused_alone", "after it refused a bad item"),
    (ChokesOnSurrogates, "an_odd_item_does_no_harm", r"fails on {title='broken \\ud83d'}"),
    (ReadsMore, "reads_the_fields_it_declares", "asks for description"),
    (ReadsLess, "reads_the_fields_it_declares", "names video, which `load` never reads"),
    (NeedsAll, "reads_the_fields_it_declares", r"KeyError \('title'\)"),
    (Unpicklable, "works_in_worker_processes", "cannot be pickled"),
    (Heavyweight, "works_in_worker_processes", "8,0.* bytes"),
    (DiesElsewhere, "works_in_worker_processes", "worker process that it travels to dies"),
    (OtherElsewhere, "works_in_worker_processes", "made something else of the items"),
    (OneFingerprint, "the_fingerprint_has_what_changes_vectors", "power=2 changes vectors and"),
    (RoughInSecret, "the_fingerprint_has_what_changes_vectors", "precision=bfloat16 changes"),
    (RandomFingerprint, "the_fingerprint_has_nothing_else", "two fingerprints"),
    (DeviceInFingerprint, "the_fingerprint_has_nothing_else", "changes with the device"),
    (TakesAnyOption, "refuses_unknown_options", "'no_such_option'"),
]


def trial_of(kind: type[Sound], folder: Path, **told: Any) -> Trial:
    (folder / "bad").mkdir()
    items = example_items(kind(), folder)
    return Trial(
        kind, items, bad_items(items, folder / "bad"), odd_items(kind.fields),
        changing={"power": "2"}, **told,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("kind", "name", "told"), FAULTS, ids=[kind.__name__ for kind, *_ in FAULTS]
)
def test_each_fault_is_caught_and_told(
    kind: type[Sound], name: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractBroken, match=told):
        getattr(contract, name)(trial_of(kind, tmp_path))


def test_every_check_has_a_fault_to_catch() -> None:
    assert {name for _, name, _ in FAULTS} == {check.__name__ for check in CHECKS}


def test_declarations_that_are_wrong_are_told(tmp_path: Path) -> None:
    trial = trial_of(Sound, tmp_path)
    trial.changing = {"chatty": True}
    with pytest.raises(ContractBroken, match="chatty=True changes no vector"):
        contract.the_fingerprint_has_what_changes_vectors(trial)
    trial.neutral = {"power": "2"}
    with pytest.raises(ContractBroken, match="power=2 was declared neutral and changes vectors"):
        contract.the_fingerprint_has_nothing_else(trial)
    trial.changing, trial.neutral = {}, {}
    assert trial.untried() == ["power", "chatty"]


def test_a_fault_is_found_without_being_told_which_option_to_try(tmp_path: Path) -> None:
    trial = trial_of(OneFingerprint, tmp_path)
    trial.changing = {}
    with pytest.raises(ContractBroken, match="power=2 changes vectors"):
        contract.the_fingerprint_has_what_changes_vectors(trial)


def test_an_option_that_is_given_is_tried_against_its_default(tmp_path: Path) -> None:
    trial = trial_of(OneFingerprint, tmp_path, options={"power": "3"})
    trial.changing = {}
    with pytest.raises(ContractBroken, match="power=1 changes vectors"):
        contract.the_fingerprint_has_what_changes_vectors(trial)


def test_an_encoder_that_needs_other_items_is_told_how_to_offer_them(tmp_path: Path) -> None:
    class Prices(Sound):
        fields = ("price",)

        def load(self, item: Mapping[str, str]) -> list[int]:
            return [0, int(item["price"])]

    found = {one.check: one.fault for one in findings(trial_of(Prices, tmp_path))}
    assert "`example_items`" in (found["keeps_the_order"] or "")

    class Offers(Prices):
        @staticmethod
        def example_items(folder: Path) -> list[dict[str, str]]:
            return [{"price": "3"}, {"price": "4"}]

    trial = trial_of(Offers, tmp_path / "bad")
    contract.vectors_have_shape_and_type(trial)
    contract.reads_the_fields_it_declares(trial)


def test_whatever_an_encoder_raises_is_a_finding(tmp_path: Path) -> None:
    class Breaks(Sound):
        def encode(self, samples: list[Any]) -> NDArray[Any]:
            raise ZeroDivisionError("no\nreason")

        def load(self, item: Mapping[str, str]) -> list[int]:
            return [np.broadcast_to(np.zeros(2), 3) for _ in item]  # raises in numpy's code

    found = {one.check: one.fault for one in findings(trial_of(Breaks, tmp_path))}
    assert len(found) == len(CHECKS)
    assert found["says_what_it_is"] is None
    line = Breaks.encode.__code__.co_firstlineno + 1
    told = f"ZeroDivisionError: no reason (at {__file__}:{line})"
    assert found["takes_an_empty_batch"] == told
    assert f" (at {__file__}:{line + 3}). " in str(found["keeps_the_order"])
    assert f" (at {__file__}:{line + 3})" in str(found["reads_the_fields_it_declares"])


def test_vectors_that_are_not_finite_are_told_once(tmp_path: Path) -> None:
    trial = trial_of(Holey, tmp_path)
    assert np.isnan(trial.vectors).any()
    assert np.isposinf(trial.vectors).any()
    trial.changing = {}
    assert {one.check: one.fault for one in findings(trial) if one.fault is not None} == {
        "vectors_have_shape_and_type": "a vector holds NaN or infinity"
    }


def test_a_vector_that_is_nan_only_sometimes_is_another(tmp_path: Path) -> None:
    trial = trial_of(Sound, tmp_path)
    holey = trial.vectors.copy()
    holey[0, 0] = np.nan
    with pytest.raises(ContractBroken, match="they differ by nan"):
        contract._same(trial, holey, "other vectors")


def test_the_suite_asks_for_every_option(tmp_path: Path) -> None:
    trial = trial_of(Sound, tmp_path)
    with pytest.raises(AssertionError, match="options chatty"):
        TestSound().test_every_option_is_tried(trial)


def test_without_pytest_the_suite_says_so_and_the_checks_still_import() -> None:
    code = """
import sys
sys.modules["pytest"] = None
import cammsr_encoders.contract
try:
    import cammsr_encoders.testing
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pytest is not installed: pip install pytest" in done.stdout
