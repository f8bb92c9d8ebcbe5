"""The contract every encoder must pass, as a pytest suite: inherit it and name the encoder.

    from cammsr_encoders.testing import EncoderContract
    from my_package import MyEncoder

    class TestMyEncoder(EncoderContract):
        kind = MyEncoder
        changing = {"bands": "20"}  # each option, with another value that changes the vectors

That runs every check of `cammsr_encoders.contract` on the real encoder. Override `items` if it
needs other items than texts, pictures and clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "cammsr_encoders.testing is a pytest suite, and pytest is not installed: "
        "pip install pytest (without it: cammsr encoders check NAME)"
    ) from error

from cammsr_encoders.contract import CHECKS, Check, Trial
from cammsr_encoders.example_items import bad_items, example_items, odd_items
from cammsr_encoders.protocol import Encoder


class EncoderContract:
    """Inherit this in a class whose name begins with Test, and set `kind`.

    Attributes:
        kind: The encoder's class.
        model: The model to try it with; None for its default.
        options: Options to try it with.
        changing: For each option that changes the vectors, another value that does so.
        neutral: For each option that changes no vector, another value.
        device: Where it runs.
        tolerance: By how much vectors may differ with the batch that they are in, as a share of
            the largest value.
    """

    kind: ClassVar[Any]
    model: ClassVar[str | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    changing: ClassVar[Mapping[str, Any]] = {}
    neutral: ClassVar[Mapping[str, Any]] = {}
    device: ClassVar[str] = "cpu"
    tolerance: ClassVar[float] = 1e-4

    _trial: ClassVar[Trial | None] = None

    @classmethod
    def items(cls, folder: Path) -> Sequence[Mapping[str, str]]:
        """Items that it must encode: those that it offers, or texts, pictures and clips of ours.

        Args:
            folder: An empty folder to write files into.
        """
        return example_items(cls.made(), folder)

    @classmethod
    def bad_items(
        cls, items: Sequence[Mapping[str, str]], folder: Path
    ) -> Sequence[Mapping[str, str]]:
        """Items that `load` must refuse: files that are no picture or clip.

        Args:
            items: The good ones.
            folder: An empty folder to write files into.
        """
        return bad_items(items, folder)

    @classmethod
    def odd_items(cls) -> Sequence[Mapping[str, str]]:
        """Items that it may encode or refuse, so long as the others are none the worse for it."""
        return odd_items(cls.made().fields)

    @classmethod
    def made(cls) -> Encoder:
        """A new encoder."""
        encoder: Encoder = cls.kind(cls.model, device=cls.device, **cls.options)
        return encoder

    @classmethod
    def teardown_class(cls) -> None:
        """Let go of the model."""
        cls._trial = None

    @pytest.fixture
    def trial(self, tmp_path_factory: pytest.TempPathFactory) -> Trial:
        """The encoder and what it is tried on, shared by all tests: its model is loaded once."""
        kind = type(self)
        if kind._trial is None:
            items = kind.items(tmp_path_factory.mktemp("items"))
            kind._trial = Trial(
                kind=kind.kind,
                items=items,
                bad_items=kind.bad_items(items, tmp_path_factory.mktemp("bad items")),
                odd_items=kind.odd_items(),
                model=kind.model,
                options=kind.options,
                changing=kind.changing,
                neutral=kind.neutral,
                device=kind.device,
                tolerance=kind.tolerance,
            )
        return kind._trial

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(self, check: Check, trial: Trial) -> None:
        """Each check of the contract."""
        check(trial)

    def test_every_option_is_tried(self, trial: Trial) -> None:
        """No option is left out of the checks of the fingerprint."""
        untried = trial.untried()
        assert not untried, (
            f"options {', '.join(untried)}: give each another value in `changing` if it changes "
            "vectors, else in `neutral`"
        )
