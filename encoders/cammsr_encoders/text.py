"""Text: an item's title, description and reviews through a sentence-transformers model."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cammsr_encoders.device import Fetch, Start, fetched, is_gpu, sent
from cammsr_encoders.protocol import (
    API,
    BadSample,
    WeightsUnavailable,
    check_options,
    check_precision,
    fingerprint_of,
    whole_number,
)
from cammsr_encoders.weights import TEXT_DEFAULT, TextWeights, find_text_weights

# No tokenizer makes so few tokens of so many characters; longer text is cut before it is tokenized.
_CHARACTERS_A_TOKEN = 32


class TextEncoder:
    """Encodes title, description and reviews, joined, into one vector.

    Args:
        model: A sentence-transformers name or folder; all-MiniLM-L6-v2 (384-d) if None.
        device: "cpu", "cuda", "cuda:N" or "mps".
        precision: "float32", or "bfloat16": of the weights on a GPU, by autocast elsewhere.
        max_tokens: Text beyond so many tokens is cut; the model's own limit if None.
        prompt: Put before each text, for models that want one (E5: "passage: ").
        unknown: Any further option is refused.

    Raises:
        UnknownOption: For an option it does not have.
        ValueError: For an option's impossible value.
    """

    api = API
    modality = "text"
    fields = ("title", "description", "reviews")

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        max_tokens: int | str | None = None,
        prompt: str = "",
        **unknown: object,
    ) -> None:
        check_options("text", unknown, ("max_tokens", "prompt"))
        self.model = model or TEXT_DEFAULT
        self.device = device
        self.precision = check_precision(precision)
        self.max_tokens = (
            None if max_tokens is None else whole_number("max_tokens", max_tokens, 3, 1_000_000)
        )
        self.prompt = prompt

    @functools.cached_property
    def _weights(self) -> TextWeights:
        weights = find_text_weights(self.model)
        _require_known_modules(weights.folder)
        return weights

    @functools.cached_property
    def _network(self) -> Any:
        network = _load_network(self._weights.folder, self.device, self.max_tokens)
        if is_gpu(self.device) and self.precision == "bfloat16":
            return network.bfloat16()
        return network

    @functools.cached_property
    def _beside(self) -> ThreadPoolExecutor:
        """What makes tokens of a batch while a GPU is at the one before."""
        return ThreadPoolExecutor(1, "tokens")

    @property
    def weights(self) -> str:
        """Where the model's weights come from, for `cammsr encoders info`."""
        return self._weights.source

    @property
    def fingerprint(self) -> str:
        """Package, version, weights and options, as one line of JSON."""
        return fingerprint_of(
            self,
            "cammsr",
            model=self.model,
            weights=self._weights.revision,
            precision=self.precision,
            max_tokens=self.max_tokens,
            prompt=self.prompt,
        )

    @functools.cached_property
    def dim(self) -> int:
        """Length of the vectors; read from the model's config files where they tell it."""
        length = _dim_of_folder(self._weights.folder)
        return length or int(self._network.get_embedding_dimension())

    def cost(self, item: Mapping[str, str]) -> float:
        """Characters of text: what decides how long a batch must be padded."""
        return float(sum(len(item.get(field, "")) for field in self.fields))

    def load(self, item: Mapping[str, str]) -> str:
        """The item's texts joined into one, title first.

        Raises:
            BadSample: If there is no text.
        """
        parts = [part for field in self.fields if (part := item.get(field, "").strip())]
        if not parts:
            raise BadSample("no text")
        text = "\n".join(parts)
        # A lone surrogate (half an emoji in a JSON file) is no Unicode text: no tokenizer takes it.
        return text.encode("utf-8", "replace").decode("utf-8")

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Sentence vectors.

        Args:
            samples: Texts from `load`.

        Returns:
            float32 [len(samples), dim].

        Raises:
            WeightsUnavailable: If the weights cannot be had.
        """
        import torch

        if not samples:
            return np.zeros((0, self.dim), np.float32)
        if is_gpu(self.device):
            return self._started(samples)()
        network = self._network
        texts = self._cut(samples)
        with torch.autocast(
            torch.device(self.device).type,
            dtype=torch.bfloat16,
            enabled=self.precision == "bfloat16",
        ):
            vectors = network.encode(
                texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True
            )
        return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)

    @property
    def start_encoding(self) -> Start | None:
        """On a GPU, `encode` that gives what fetches the vectors, and does not wait for them.

        Tokens are made beside the model, in a thread.
        """
        return self._beside_the_model if is_gpu(self.device) else None

    def _beside_the_model(self, samples: list[Any]) -> Fetch:
        in_thread = self._beside.submit(self._started, samples)
        return lambda: in_thread.result()()

    def _started(self, samples: list[Any]) -> Fetch:
        """As sentence-transformers' own `encode` does, but without waiting for the GPU."""
        import torch

        network, device = self._network, torch.device(self.device)
        prompt = network.prompts.get(network.default_prompt_name)
        tokens = network.preprocess(self._cut(samples), prompt=prompt)
        with torch.inference_mode():
            there = {
                name: sent(value, device) if isinstance(value, torch.Tensor) else value
                for name, value in tokens.items()
            }
            return fetched(network(there)["sentence_embedding"][:, : network.truncate_dim])

    def _cut(self, samples: list[Any]) -> list[str]:
        """Texts with the prompt, without what no tokenizer would read."""
        limit = _CHARACTERS_A_TOKEN * int(self._network.max_seq_length or 8192)
        return [self.prompt + text[:limit] for text in samples]

    def __getstate__(self) -> dict[str, Any]:
        here = ("_network", "_beside")
        return {key: value for key, value in self.__dict__.items() if key not in here}


def _load_network(folder: Path, device: str, max_tokens: int | None) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # loading takes a second: a bar of its own is noise
    try:
        network = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    network.eval()
    if max_tokens is not None:
        network.max_seq_length = min(max_tokens, network.max_seq_length or max_tokens)
    return network


def _require_known_modules(folder: Path) -> None:
    """Refuse a model whose folder names Python code of its own to be run.

    sentence-transformers refuses it too, from 6.0 on.

    Raises:
        WeightsUnavailable: It does, or its list of modules is none.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return
    try:
        kinds = [module["type"] for module in json.loads(modules.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, LookupError) as error:
        raise WeightsUnavailable(f"{modules} is no list of modules: {error}") from error
    for kind in kinds:
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            raise WeightsUnavailable(
                f"{modules} names a module that is not of sentence-transformers: {kind!r}; code "
                "that comes with a model is never run; take another model"
            )


def _dim_of_folder(folder: Path) -> int | None:
    """The dimension that the config files tell, None where only the loaded model knows it."""
    modules = folder / "modules.json"
    pooling = folder / "1_Pooling" / "config.json"
    if not modules.is_file() or not pooling.is_file():
        return None
    kinds = [str(module["type"]).rpartition(".")[2] for module in json.loads(modules.read_text())]
    config = json.loads(pooling.read_text())
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if set(kinds) - {"Transformer", "Pooling", "Normalize"} or len(modes) != 1:
        return None
    dim = config.get("word_embedding_dimension")
    return dim if isinstance(dim, int) else None
