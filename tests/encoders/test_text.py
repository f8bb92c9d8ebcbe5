from __future__ import annotations

import subprocess
import sys

import numpy as np
from cammsr_encoders.text import TextEncoder


def test_like_texts_have_like_vectors() -> None:
    encoder = TextEncoder()
    texts = ["A detective hunts a bank robber.", "Police chase a thief.", "How to bake bread."]
    police, thief, bread = encoder.encode([encoder.load({"title": text}) for text in texts])
    assert police @ thief > police @ bread + 0.2
    np.testing.assert_allclose(np.linalg.norm(police), 1, atol=1e-4)


def test_fields_are_joined_title_first_and_blanks_left_out() -> None:
    item = {"reviews": "Good.", "title": " Heat ", "description": "  ", "image": "x.jpg"}
    assert TextEncoder().load(item) == "Heat\nGood."


def test_half_an_emoji_and_endless_text_are_no_obstacle() -> None:
    encoder = TextEncoder(max_tokens="16")
    samples = [encoder.load({"title": text}) for text in ("broken \ud83d", "word " * 200_000)]
    assert np.isfinite(encoder.encode(samples)).all()


def test_max_tokens_and_prompt_change_the_vectors() -> None:
    long = "word " * 20 + "bread"
    plain = TextEncoder().encode([long])
    cut = TextEncoder(max_tokens=8).encode([long])
    prompted = TextEncoder(prompt="passage: ").encode([long])
    assert np.abs(plain - cut).max() > 0.01
    assert np.abs(plain - prompted).max() > 0.01


def test_cost_is_length() -> None:
    encoder = TextEncoder()
    assert encoder.cost({"title": "abc", "image": "long path"}) == 3


def test_the_length_of_the_vectors_is_known_without_loading_the_model() -> None:
    code = """
import sys
from cammsr_encoders.text import TextEncoder
assert TextEncoder().dim == 384
print([name for name in ("torch", "transformers", "timm", "av") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
