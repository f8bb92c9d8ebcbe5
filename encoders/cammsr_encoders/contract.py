"""What every encoder must do: `CHECKS`, plain functions that try a real encoder on real items.

The pytest suite of `cammsr_encoders.testing` and the command `cammsr encoders check` both run
these. A check returns if all is well and raises `ContractBroken`, which says what to mend, if not.
Nothing here needs pytest, or the rest of cammsr.

This file has more than 400 lines: the checks are many and small, and are read one after another.
"""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cammsr_encoders.options import options_of
from cammsr_encoders.protocol import API, MODALITY_NAME, BadSample, Encoder, WeightsUnavailable

REFERENCE = "python -m pydoc cammsr_encoders.protocol"
"""Where what is asked of an encoder is told, in every installation."""

REFUSALS = (BadSample, ValueError, OSError)
"""What `load` may raise for an item that cannot be used."""

# Packages that take a second or more to import, or hold a device once they are.
_HEAVY = ("torch", "transformers", "sentence_transformers", "timm", "tensorflow", "jax")
# Data sets store float16 unless told otherwise; what is larger is lost there.
_LARGEST = float(np.finfo(np.float16).max)
# A pickled encoder above this carries its model with it, to every worker process.
_PICKLED_BYTES = 1_000_000
_WORKER_SECONDS = 300


class ContractBroken(AssertionError):  # noqa: N818 - it says what the encoder has done
    """An encoder does not do what is asked of every encoder; the message says what to mend."""


@dataclass
class Trial:
    """An encoder and what it is tried on.

    Attributes:
        kind: The encoder's class, or whatever is called to make one.
        items: Items that it must encode, at least two, not all alike; together they have all its
            fields. As `load` gets them: text, or absolute paths for media.
        bad_items: Items that `load` must refuse.
        odd_items: Items that it may encode or refuse, so long as nothing else suffers.
        model: The model, as on the command line.
        options: Options, as on the command line.
        changing: Option to another value, with which the vectors of `items` are others.
        neutral: Option to another value, with which the vectors stay the same.
        device: Where it runs.
        tolerance: By how much vectors may differ with the batch that they are in, as a share of
            the largest value.
    """

    kind: Callable[..., Any]
    items: Sequence[Mapping[str, str]]
    bad_items: Sequence[Mapping[str, str]] = ()
    odd_items: Sequence[Mapping[str, str]] = ()
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    changing: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    tolerance: float = 1e-4

    def make(self, **other: Any) -> Encoder:
        """A new encoder, with other options if given."""
        made: Encoder = self.kind(self.model, **{**self._options(), **other})
        return made

    def _options(self) -> dict[str, Any]:
        """The keywords that the constructor is given."""
        return {"device": self.device, "precision": "float32", **self.options}

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that most checks share, so that its model is loaded once."""
        return self.make()

    @cached_property
    def samples(self) -> list[Any]:
        """What `load` makes of the items."""
        _require(len(self.items) >= 2, "it takes at least two items to try an encoder")
        return [self._sample(item) for item in self.items]

    def _sample(self, item: Mapping[str, str]) -> Any:
        try:
            return self.encoder.load(dict(item))
        except REFUSALS as error:
            raise ContractBroken(
                f"`load` refuses an item that it should encode, {_short(item)}: {_said(error)}"
                f"{_place(error, self.kind)}. If it needs other items, let it offer some in a "
                "method `example_items`, which is given an empty folder and returns a list of them"
            ) from error

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Vectors of the items, encoded as one batch."""
        return self.encoder.encode(self.samples)

    @cached_property
    def elsewhere(self) -> Elsewhere:
        """What a process of its own, as a worker is, makes of the encoder and the items."""
        made_of = self.kind, self.model, self._options()
        _ = self.vectors, self.encoder.dim  # the one that travels has its model loaded
        try:
            sent = pickle.dumps(made_of), pickle.dumps(self.encoder)
        except Exception as error:  # pickle raises anything, and so may a stranger's __getstate__
            raise ContractBroken(
                f"it cannot be pickled, so it cannot travel to a worker process: {_said(error)}"
            ) from error
        found = _in_another_process(*sent, [dict(item) for item in self.items])
        return Elsewhere(len(sent[1]), *found)

    def untried(self) -> list[str]:
        """Options for which neither `changing` nor `neutral` has a value."""
        tried = {*self.changing, *self.neutral}
        return [one.name for one in options_of(self.kind) if one.name not in tried]


@dataclass(frozen=True)
class Elsewhere:
    """What another process made of an encoder.

    Attributes:
        pickled: Bytes of the encoder that travelled there.
        heavy: Heavy packages imported to make it and tell its fingerprint.
        fingerprint: The fingerprint it told there.
        samples: [n] what `load` made of the items.
        vectors: [n, dim].
    """

    pickled: int
    heavy: list[str]
    fingerprint: str
    samples: list[Any]
    vectors: NDArray[np.float32]


def _in_another_process(
    made_of: bytes, used: bytes, items: list[dict[str, str]]
) -> tuple[list[str], str, list[Any], NDArray[np.float32]]:
    """What `_try_here` finds in a process that shares nothing with this one.

    Raises:
        ContractBroken: If it fails there, dies, or takes too long.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_try_here, args=(sender, made_of, used, items), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(_WORKER_SECONDS):
            raise ContractBroken(f"it does not answer in a worker process in {_WORKER_SECONDS} s")
        fault, found = receiver.recv()
        process.join(_WORKER_SECONDS)  # let it end in good order
    except EOFError:
        raise ContractBroken("the worker process that it travels to dies") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if fault is not None:
        raise ContractBroken(f"it works here and not in a worker process: {fault}")
    answer: tuple[list[str], str, list[Any], NDArray[np.float32]] = found
    return answer


def _try_here(sender: Any, made_of: bytes, used: bytes, items: list[dict[str, str]]) -> None:
    """In the other process: send what came of the encoder, or what it raised."""
    sys.stdout = sys.stderr  # results go to stdout; what an encoder prints is none
    kind: Any = None
    try:
        before = {*sys.modules}
        # Pickles that the parent process made a moment ago.
        kind, model, message = pickle.loads(made_of)  # noqa: S301
        fingerprint = kind(model, **message).fingerprint
        heavy = [name for name in _HEAVY if name in {*sys.modules} - before]
        encoder = pickle.loads(used)  # noqa: S301
        samples = [encoder.load(item) for item in items]
        found = heavy, fingerprint, samples, encoder.encode(samples)
    except (Exception, SystemExit) as error:
        sender.send((f"{type(error).__name__}: {_said(error)}{_place(error, kind)}", None))
    else:
        sender.send((None, found))


Check = Callable[[Trial], str | None]
"""Raises `ContractBroken` if the encoder fails; returns what it could not try, None if it could.

The first line of its docstring says what it asks.
"""


def says_what_it_is(trial: Trial) -> None:
    """It says what it is: api, modality, fields, dim, fingerprint."""
    encoder = trial.encoder
    _require(
        getattr(encoder, "api", None) == API, f"its `api` must be {API}, the version it follows"
    )
    modality = getattr(encoder, "modality", None)
    _require(
        isinstance(modality, str) and MODALITY_NAME.fullmatch(modality) and modality != "id",
        f"its `modality` is {modality!r}; it must be lower-case letters, digits and _, begin with "
        "a letter, and not be 'id'",
    )
    fields = getattr(encoder, "fields", None)
    _require(
        isinstance(fields, tuple) and fields and all(isinstance(one, str) for one in fields),
        f"its `fields` is {fields!r}; it must be a tuple of item fields, such as ('title',)",
    )
    # Always in this order: `dim` may need weights, and what is not there is told first.
    for part in ("dim", "fingerprint", "load", "encode"):
        _require(
            getattr(encoder, part, None) is not None,
            f"it has no `{part}`, which {REFERENCE} tells of",
        )
    _require(
        isinstance(encoder.dim, int) and encoder.dim > 0,
        f"its `dim` is {encoder.dim!r}; it must be the length of the vectors, a whole number",
    )
    _require(
        isinstance(encoder.fingerprint, str) and encoder.fingerprint.strip(),
        f"its `fingerprint` is {encoder.fingerprint!r}; it must be a string that is not empty",
    )


def is_cheap_until_used(trial: Trial) -> None:
    """Being imported, made and asked for its fingerprint imports nothing heavy."""
    heavy = trial.elsewhere.heavy
    _require(
        not heavy,
        f"making it or asking for its fingerprint imports {', '.join(heavy)}; import those where "
        "they are first used, in `load` or `encode`",
    )


def vectors_have_shape_and_type(trial: Trial) -> None:
    """Vectors are float32 [n, dim], finite, and not all the same."""
    vectors, dim = trial.vectors, trial.encoder.dim
    _require(
        isinstance(vectors, np.ndarray)
        and vectors.shape == (len(trial.items), dim)
        and vectors.dtype == np.float32,
        f"`encode` gave {_shape(vectors)} for {len(trial.items)} samples; it must be "
        f"float32 {[len(trial.items), dim]}",
    )
    _require(bool(np.isfinite(vectors).all()), "a vector holds NaN or infinity")
    largest = float(np.abs(vectors).max())
    _require(
        largest <= _LARGEST,
        f"a vector holds {largest:.3g}; above {_LARGEST:.0f} it does not fit float16, which data "
        "sets store by default: scale the vectors, or take a logarithm",
    )
    _require(
        len(np.unique(vectors, axis=0)) > 1, "items of different content all got the same vector"
    )


def is_deterministic(trial: Trial) -> None:
    """The same input gives the same vectors: each time, from each encoder, in each process."""
    _require(
        _alike(trial.vectors, trial.encoder.encode(trial.samples)),
        "the same batch encoded twice gave other vectors; leave out whatever is random, and put "
        "models in evaluation mode",
    )
    again = trial.make()
    _same(
        trial,
        again.encode([again.load(dict(item)) for item in trial.items]),
        "a second encoder made in the same way gave other vectors; draw nothing at random",
    )
    _same(
        trial,
        trial.elsewhere.vectors,
        "another process gave other vectors; `hash()` of a text, for one, is another in each",
    )


def does_not_depend_on_the_batch(trial: Trial) -> None:
    """A vector is the same whichever items are in the batch with it."""
    one_by_one = [trial.encoder.encode([sample]) for sample in trial.samples]
    _same(
        trial,
        np.concatenate(one_by_one),
        "items encoded one by one and as one batch have other vectors; an item's vector must "
        "depend on nothing but the item",
    )
    _same(
        trial,
        trial.encoder.encode(trial.samples + trial.samples)[: len(trial.samples)],
        "items have other vectors in a batch of twice the size",
    )


def keeps_the_order(trial: Trial) -> None:
    """Vectors come in the order of the samples."""
    _same(
        trial,
        trial.encoder.encode(trial.samples[::-1])[::-1],
        "samples in reverse order did not give the vectors in reverse order",
    )


def takes_an_empty_batch(trial: Trial) -> None:
    """No samples give no vectors."""
    empty = trial.encoder.encode([])
    _require(
        isinstance(empty, np.ndarray)
        and empty.shape == (0, trial.encoder.dim)
        and empty.dtype == np.float32,
        f"`encode([])` gave {_shape(empty)}; it must be float32 {[0, trial.encoder.dim]}",
    )


def a_bad_item_is_refused_alone(trial: Trial) -> str | None:
    """A bad item is refused by `load`, and the others are none the worse for it."""
    _ = trial.vectors  # from before it met a bad item
    for item in trial.bad_items:
        _require(
            _refused(trial.encoder, item) is not None,
            f"`load` takes {_short(item)}, which cannot be used, for good; raise BadSample",
        )
    _same(
        trial,
        trial.encoder.encode(trial.samples),
        "after it refused a bad item, good ones have other vectors",
    )
    return None if trial.bad_items else "not tried: there is no bad item for its fields"


def an_odd_item_does_no_harm(trial: Trial) -> None:
    """An odd item is refused or encoded, and the others in its batch stay the same."""
    good, rest = trial.samples[0], trial.samples[1]
    expected = trial.vectors[:2]
    for item in trial.odd_items:
        if _refused(trial.encoder, item) is not None:
            continue
        odd = trial.encoder.load(dict(item))
        try:
            vectors = trial.encoder.encode([good, odd, rest])
        except (Exception, SystemExit) as error:
            raise ContractBroken(
                f"`encode` fails on {_short(item)}, which `load` took: {_said(error)}"
                f"{_place(error, trial.kind)}; that ends the run for all items, so refuse it in "
                "`load` or encode it"
            ) from error
        _close(
            trial,
            vectors[[0, 2]],
            expected,
            f"in a batch with {_short(item)} other items have other vectors",
        )


def reads_the_fields_it_declares(trial: Trial) -> None:
    """It reads the item fields that it declares, each of them, and no others."""
    read: set[str] = set()
    for item in trial.items:
        watched = _Watched(item)
        trial.encoder.load(watched)
        read |= watched.read
    fields = trial.encoder.fields
    for name in fields:
        alone = next((one[name] for one in trial.items if name in one), None)
        _require(alone is not None, f"no item to try it on has the field {name!r}")
        watched = _Watched({name: alone or ""})
        _refused(trial.encoder, watched)
        read |= watched.read
    strange = sorted(read - {*fields})
    _require(
        not strange,
        f"`load` asks for {', '.join(strange)}, which `fields` does not name: `prepare` hands over "
        "declared fields only",
    )
    idle = [name for name in fields if name not in read]
    _require(not idle, f"`fields` names {', '.join(idle)}, which `load` never reads")


def works_in_worker_processes(trial: Trial) -> None:
    """It travels to a worker process without its model, and loads the same there."""
    elsewhere = trial.elsewhere
    _require(
        elsewhere.pickled <= _PICKLED_BYTES,
        f"pickled it has {elsewhere.pickled:,} bytes, which every worker process gets; leave the "
        "loaded model out of `__getstate__`",
    )
    _require(
        elsewhere.fingerprint == trial.encoder.fingerprint,
        "its fingerprint is another in another process",
    )
    _require(
        _equal(elsewhere.samples, trial.samples),
        "`load` in a worker process made something else of the items than here",
    )


def the_fingerprint_has_what_changes_vectors(trial: Trial) -> str | None:
    """The fingerprint changes with every option that changes the vectors."""
    for name, value in trial.changing.items():
        other, vectors = _tried(trial, {name: value})
        _require(
            not _alike(vectors, trial.vectors),
            f"{name}={value} changes no vector; try it on items where it does, or with another "
            "value, or declare it neutral",
        )
        _require(
            other.fingerprint != trial.encoder.fingerprint,
            f"{name}={value} changes vectors and not the fingerprint: cached vectors of the one "
            "would be taken for the other",
        )
    guesses = {name: value for name, value in _guesses(trial).items() if name in trial.untried()}
    for name, values in {"precision": ["bfloat16"], **guesses}.items():
        for value in values:
            try:
                other, vectors = _tried(trial, {name: value})
            except (ValueError, TypeError):
                continue  # it takes no such value, which is its right
            _require(
                other.fingerprint != trial.encoder.fingerprint or _alike(vectors, trial.vectors),
                f"{name}={value} changes vectors and not the fingerprint: cached vectors of the "
                "one would be taken for the other",
            )
            break
    left = [name for name in trial.untried() if name not in guesses]
    return f"not tried, as no other value is known: {', '.join(left)}" if left else None


def the_fingerprint_has_nothing_else(trial: Trial) -> None:
    """The fingerprint stays the same from one encoder to the next, and on another device."""
    fingerprint = trial.encoder.fingerprint
    _require(
        trial.make().fingerprint == fingerprint,
        "two encoders made in the same way have two fingerprints; keep random numbers out",
    )
    elsewhere = "cuda:1" if trial.device == "cpu" else "cpu"
    _require(
        trial.make(device=elsewhere).fingerprint == fingerprint,
        "the fingerprint changes with the device, so moving to another encodes all again",
    )
    for name, value in trial.neutral.items():
        other, vectors = _tried(trial, {name: value})
        _same(trial, vectors, f"{name}={value} was declared neutral and changes vectors")
        _require(
            other.fingerprint == fingerprint,
            f"{name}={value} changes the fingerprint and no vector: all would be encoded again",
        )
    trial.encoder.encode(trial.samples)
    _require(trial.encoder.fingerprint == fingerprint, "use changes its fingerprint")


def refuses_unknown_options(trial: Trial) -> None:
    """An option that it does not have is refused."""
    try:
        trial.make(no_such_option="1")
    except (TypeError, ValueError):
        return
    raise ContractBroken(
        "it takes an option 'no_such_option'; a misspelt option must be refused with a TypeError"
    )


CHECKS: tuple[Check, ...] = (
    says_what_it_is,
    is_cheap_until_used,
    vectors_have_shape_and_type,
    is_deterministic,
    does_not_depend_on_the_batch,
    keeps_the_order,
    takes_an_empty_batch,
    a_bad_item_is_refused_alone,
    an_odd_item_does_no_harm,
    reads_the_fields_it_declares,
    works_in_worker_processes,
    the_fingerprint_has_what_changes_vectors,
    the_fingerprint_has_nothing_else,
    refuses_unknown_options,
)
"""The contract, in the order in which it is best read."""


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Attributes:
        check: The check's name.
        says: What it asks, in one line.
        fault: What is wrong, in one line; None if the encoder passed.
        note: What could not be tried, in one line; None if all could.
    """

    check: str
    says: str
    fault: str | None
    note: str | None


def findings(trial: Trial) -> Iterator[Finding]:
    """Run all checks, one after the other; whatever the encoder raises is its fault.

    Raises:
        WeightsUnavailable: If the encoder's weights cannot be had: it cannot be tried then.
    """
    for check in CHECKS:
        fault = note = None
        try:
            note = check(trial)
        except WeightsUnavailable:
            raise
        except ContractBroken as error:
            fault = str(error)
        except (Exception, SystemExit) as error:  # a stranger's code, the very thing that is tried
            fault = f"{type(error).__name__}: {_said(error)}{_place(error, trial.kind)}"
        yield Finding(check.__name__, title_of(check), fault, note)


def title_of(check: Check) -> str:
    """What a check asks of an encoder: the first line of its docstring."""
    return (inspect.getdoc(check) or check.__name__).splitlines()[0]


class _Watched(dict[str, str]):
    """An item that notes which of its fields are read."""

    def __init__(self, item: Mapping[str, str]) -> None:
        super().__init__(item)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self.read.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        self.read.update(super().keys())
        return super().values()

    def items(self) -> Any:
        self.read.update(super().keys())
        return super().items()


def _guesses(trial: Trial) -> dict[str, list[Any]]:
    """Other values to try: the default of an option that is given, or what is like its default."""
    guesses: dict[str, list[Any]] = {}
    for option in options_of(trial.kind):
        value = option.default
        if option.name in trial.options:
            guesses[option.name] = [] if value is inspect.Parameter.empty else [value]
        elif isinstance(value, bool):
            guesses[option.name] = [not value]
        elif isinstance(value, int):
            guesses[option.name] = [str(value + 1), str(value - 1)]
        elif isinstance(value, float):
            guesses[option.name] = [str(value / 2 + 0.1)]
    return {name: values for name, values in guesses.items() if values}


def _tried(trial: Trial, other: Mapping[str, Any]) -> tuple[Encoder, NDArray[np.float32]]:
    """An encoder with other options, and its vectors of the items."""
    encoder = trial.make(**other)
    return encoder, encoder.encode([encoder.load(dict(item)) for item in trial.items])


def _refused(encoder: Encoder, item: Mapping[str, str]) -> Exception | None:
    """What `load` raises for an item, None if it takes it.

    Raises:
        ContractBroken: If it raises what is no refusal.
    """
    try:
        encoder.load(item)
    except REFUSALS as error:
        return error
    except (Exception, SystemExit) as error:
        raise ContractBroken(
            f"`load` raises {type(error).__name__} ({_said(error)}) for {_short(item)}"
            f"{_place(error, type(encoder))}; an item that cannot be used is a BadSample, a "
            "ValueError or an OSError, and any of the declared fields may be absent"
        ) from error
    return None


def _same(trial: Trial, vectors: NDArray[Any], message: str) -> None:
    _close(trial, vectors, trial.vectors, message)


def _close(trial: Trial, vectors: NDArray[Any], expected: NDArray[Any], message: str) -> None:
    """Raise ContractBroken if vectors differ by more than the tolerance."""
    _require(vectors.shape == expected.shape, f"{message} ({_shape(vectors)}, {_shape(expected)})")
    # What is NaN or infinite in both is no difference: that it is there is told once, elsewhere.
    differs = (vectors != expected) & ~(np.isnan(vectors) & np.isnan(expected))
    off = float(np.abs(vectors[differs].astype(np.float64) - expected[differs]).max(initial=0))
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    allowed = trial.tolerance * max(largest, 1e-12)
    _require(off <= allowed, f"{message} (they differ by {off:.3g}, allowed is {allowed:.3g})")


def _alike(vectors: NDArray[Any], others: NDArray[Any]) -> bool:
    """Whether vectors are the same bit for bit, NaN where there is NaN."""
    return np.array_equal(vectors, others, equal_nan=True)


def _equal(one: Any, other: Any) -> bool:
    """Whether two samples, or lists of them, are the same; tensors and arrays compare by value."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) or hasattr(one, "__array__"):
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return pickle.dumps(one) == pickle.dumps(other) or bool(one == other)


def _require(holds: object, message: str) -> None:
    if not holds:
        raise ContractBroken(message)


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _place(error: BaseException, kind: object) -> str:
    """The line of the encoder's code that an exception came from, in brackets; else of others'."""
    package = str(getattr(kind, "__module__", "")).partition(".")[0]
    own = elsewhere = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if module == __name__:
            continue
        elsewhere = f" (at {frame.f_code.co_filename}:{line})"
        if module.partition(".")[0] == package:
            own = elsewhere
    return own or elsewhere


def _short(item: Mapping[str, str]) -> str:
    """An item in one short line."""
    values = {
        name: ascii(value if len(value) <= 40 else f"...{value[-37:]}")
        for name, value in dict(item).items()
    }
    parts = (f"{name}={value}" for name, value in values.items())
    return "{" + ", ".join(parts) + "}"
