from __future__ import annotations

from cammsr_encoders.options import EncoderOption, argument_help, options_of


def test_options_and_their_help_are_read_from_the_class() -> None:
    class Documented:
        """Has a docstring.

        Args:
            model: The model, which is no option.
            device: Nor is this.
            power: What counts are raised to,
                on two lines.
            chatty (bool): Changes nothing.

        Raises:
            ValueError: Never.
        """

        def __init__(
            self, model=None, *, device="cpu", precision="float32", power=1, chatty=False, must, **x
        ): ...

    assert argument_help(Documented)["model"] == "The model, which is no option."
    one, two, three = options_of(Documented)
    assert one == EncoderOption("power", 1, "What counts are raised to, on two lines.")
    assert two == EncoderOption("chatty", False, "Changes nothing.")
    assert (three.name, three.help) == ("must", "")


def test_help_may_stand_at_the_constructor_and_options_need_no_star() -> None:
    class Positional:
        def __init__(self, weights=None, device="cpu", precision="float32", bins=4):
            """Make one.

            Args:
                bins: How many.
            """

    assert options_of(Positional) == [EncoderOption("bins", 4, "How many.")]
