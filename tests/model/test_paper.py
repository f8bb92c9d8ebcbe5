"""The model as published, equation by equation, against plain numpy that knows nothing of it.

The numpy is written from the method's equations alone: one item, stream and position at a time.
What the paper leaves open is read as follows: a router's attention is causal, position l sees 1 to
l; d is summed over the categories; an item's categories are told from its plain vectors.
Axes: S streams, N items, L positions, D width, K experts a stream, H their hidden values,
C categories.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cammsr_cli.config import PRESETS, ModelConfig
from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.experts import Camoe, CategoryGuide, Router, equal_weights
from cammsr_cli.model.history_windows import Events, Window, cut
from cammsr_cli.model.layers import StreamNorm
from cammsr_cli.model.losses import catalogue_cross_entropy, swap_loss
from cammsr_cli.model.user_encoder import UserEncoder, causal_mask

Array = NDArray[np.float64]

N, L, D, K, C, HEADS, LAYERS = 9, 5, 8, 4, 6, 2, 2
DIMS = {"text": 5, "image": 7, "video": 4}
STREAMS = {
    "id alone": ("id",),
    "id, text": ("id", "text"),
    "id, text, image": ("id", "text", "image"),
    "id, text, image, video": ("id", "text", "image", "video"),
    "text, image": ("text", "image"),
}
each_streams = pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS.keys())
each_number = pytest.mark.parametrize("number", [1, 2, 3, 4])

# The paper in numpy.


def gelu(x: Array) -> Array:
    return x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)


def softmax(x: Array) -> Array:
    e = np.exp(x - np.max(x))
    return e / e.sum()


def attention(q_LX: Array, k_LX: Array, v_LX: Array, bias_L: Array) -> Array:
    """Each position over itself and those before it; `bias_L` counts by the distance back."""
    rows = []
    for t in range(len(q_LX)):
        logits = [q_LX[t] @ k / math.sqrt(q_LX.shape[1]) for k in k_LX[: t + 1]]
        weights = softmax(np.array([logits[s] + bias_L[t - s] for s in range(t + 1)]))
        rows.append(weights @ v_LX[: t + 1])
    return np.stack(rows)


def normalised(x: Array) -> Array:
    """LayerNorm without scale and shift."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5)


def router(e_LD: Array, weight_DO: Array, bias_O: Array, kind: str, gates_of_one: bool) -> Array:
    """Equations 6 and 7 for one stream: G = softmax(Q K^T / sqrt(K)) V, or a linear map: [L, K]."""
    gate_LK = e_LD @ weight_DO + bias_O
    if kind == "attention":
        q, k, v = gate_LK[:, :K], gate_LK[:, K : 2 * K], gate_LK[:, 2 * K :]
        gate_LK = attention(q, k, v, np.zeros(len(q)))
    return np.stack([softmax(row) for row in gate_LK]) if gates_of_one else gate_LK


def experts(e_SLD: Array, gate_SLK: Array, p: dict[str, Array], inputs: str) -> Array:
    """Equation 5: sum over a stream's experts of gate times FFN([e_1; ...; e_S])."""
    added = np.zeros_like(e_SLD)
    hidden = p["experts_out_SFD"].shape[1] // K
    for s in range(len(e_SLD)):
        for at in range(e_SLD.shape[1]):
            read = np.concatenate(list(e_SLD[:, at])) if inputs == "all" else e_SLD[s, at]
            for k in range(K):
                own = slice(k * hidden, (k + 1) * hidden)
                inner = read @ p["experts_in.weight_SIO"][s][:, own]
                inner = gelu(inner + p["experts_in.bias_SO"][s][own])
                outer = inner @ p["experts_out_SFD"][s][own] + p["experts_shift_SED"][s][k]
                added[s, at] += gate_SLK[s, at, k] * outer
    return added


def difference(logits_C: Array, labels: list[int]) -> float:
    """Equations 8 and 9: binary cross-entropy against a label, the largest over several."""
    each = []
    for label in labels:
        total = 0.0
        for c, logit in enumerate(logits_C):
            probability = 1 / (1 + math.exp(-logit))
            total -= math.log(probability if c == label else 1 - probability)
        each.append(total)
    return max(each)


def stream_weights(logits_SC: Array, labels: list[int], there_S: Array, guidance: str) -> Array:
    """Equation 10: a softmax of d over the streams an item has; alike where nothing is known."""
    has = np.flatnonzero(there_S)
    weight_S = np.zeros(len(there_S))
    if guidance == "equal" or not labels:
        weight_S[has] = 1 / len(has)
    else:
        d = np.array([difference(logits_SC[s], labels) for s in has])
        weight_S[has] = softmax(d if guidance == "difference" else -d)
    return weight_S


def transformer(x_LD: Array, p: dict[str, Array], s: int, relative_positions: bool) -> Array:
    """Equations 12 and 14, stream s: pre-norm blocks, then a LayerNorm with scale and shift."""
    size = D // HEADS
    for block in range(LAYERS):

        def linear(name: str, x: Array, at: str = f"blocks.{block}.") -> Array:
            return x @ p[f"{at}{name}.weight_SIO"][s] + p[f"{at}{name}.bias_SO"][s]

        q, k, v = np.split(linear("query_key_value", normalised(x_LD)), 3, axis=1)
        bias_LX = np.zeros((len(x_LD), (s + 1) * HEADS))
        if relative_positions:
            bias_LX = p[f"blocks.{block}.distance_bias_LX"]
        mixed = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            bias_L = bias_LX[:, s * HEADS + head]
            mixed.append(attention(q[:, part], k[:, part], v[:, part], bias_L))
        x_LD = x_LD + linear("attention_out", np.concatenate(mixed, axis=1))
        hidden = gelu(linear("feed_forward_in", normalised(x_LD)))
        x_LD = x_LD + linear("feed_forward_out", hidden)
    return normalised(x_LD) * p["final_norm.scale_SD"][s] + p["final_norm.shift_SD"][s]


def info_nce(one_BD: Array, other_BD: Array) -> float:
    """Equation 18: the other histories' states are the negatives; cosines, temperature 1."""
    total = 0.0
    for b, one in enumerate(one_BD):
        cosine = [one @ o / np.linalg.norm(one) / np.linalg.norm(o) for o in other_BD]
        total -= math.log(math.exp(cosine[b]) / sum(math.exp(c) for c in cosine))
    return total / len(one_BD)


# What is compared with it.

CAUSAL = causal_mask(L, torch.device("cpu"))


def _values(module: torch.nn.Module) -> dict[str, Array]:
    """Give a module random values, large enough for all to be plain to see; those, in numpy."""
    torch.manual_seed(0)
    module.double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return {name: value.numpy() for name, value in module.state_dict().items()}


def _random(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64)


def _close(ours: torch.Tensor, paper: Array) -> None:
    # The weights of streams are found in float32.
    np.testing.assert_allclose(ours.detach().numpy(), paper, rtol=1e-5, atol=1e-6)


@each_number
@pytest.mark.parametrize("gates_of_one", [False, True], ids=["gates as they are", "gates of one"])
@pytest.mark.parametrize("kind", ["attention", "linear"])
def test_equations_6_and_7_routers(kind, gates_of_one, number) -> None:
    layer = Router(number, D, K, kind, gates_of_one)
    p, e = _values(layer), _random(number, 2, L, D)
    gate = layer(e, CAUSAL)
    for s in range(number):
        for b in range(2):
            weight, bias = p["linear.weight_SIO"][s], p["linear.bias_SO"][s]
            _close(gate[s, b], router(e[s, b].numpy(), weight, bias, kind, gates_of_one))


@each_number
@pytest.mark.parametrize("gates_of_one", [False, True], ids=["gates as they are", "gates of one"])
@pytest.mark.parametrize("kind", ["attention", "linear"])
@pytest.mark.parametrize("inputs", ["all", "own"])
def test_equations_5_and_11_experts(inputs, kind, gates_of_one, number) -> None:
    """e + w times what the experts make of all streams side by side, or of their own."""
    layer = Camoe(number, D, K, 4 * D, inputs, kind, gates_of_one)
    p, e = _values(layer), _random(number, 2, L, D)
    guide = _random(number, 2, L).abs()
    enriched = layer(e, guide, CAUSAL)
    for b in range(2):
        gate = [
            router(
                e[s, b].numpy(),
                p["router.linear.weight_SIO"][s],
                p["router.linear.bias_SO"][s],
                kind,
                gates_of_one,
            )
            for s in range(number)
        ]
        added = experts(e[:, b].numpy(), np.stack(gate), p, inputs)
        _close(enriched[:, b], e[:, b].numpy() + guide[:, b].numpy()[..., None] * added)


LABELS = [[0], [3], [1, 4], [], [5], [0, 1, 2, 3, 4, 5], [2], [], [4]]
"""The categories of N items."""


def _labels() -> torch.Tensor:
    label_NC = torch.zeros(N, C, dtype=torch.bool)
    for n, labels in enumerate(LABELS):
        label_NC[n, labels] = True
    return label_NC


def _there(number: int) -> torch.Tensor:
    """Item 7, which has no label, and item 8 lack their last stream, if they have others."""
    there_NS = torch.ones(N, number, dtype=torch.bool)
    if number > 1:
        there_NS[7:, -1] = False
    return there_NS


@each_number
@pytest.mark.parametrize("guidance", ["difference", "accuracy", "equal"])
def test_equations_8_to_10_guidance(guidance, number) -> None:
    layer = CategoryGuide(number, D, C, guidance)
    p, x, there = _values(layer), _random(number, N, D), _there(number)
    logits, weight = layer(x, there, _labels())
    for n in range(N):
        expected = [
            x[s, n].numpy() @ p["linear.weight_SIO"][s] + p["linear.bias_SO"][s]
            for s in range(number)
        ]
        _close(logits[:, n], np.stack(expected))
        _close(weight[n], stream_weights(np.stack(expected), LABELS[n], there[n].numpy(), guidance))
    assert torch.equal(layer(x, there, None)[1], equal_weights(there))


@each_number
def test_equation_13_dynamic_tanh(number) -> None:
    layer = StreamNorm([True] * number)
    p, x = _values(layer), _random(number, 2, L, D)
    for s in range(number):
        _close(layer(x)[s], np.tanh(p["alpha_S"][s] * x[s].numpy()))


@each_number
def test_the_layer_norm_in_its_place(number) -> None:
    layer = StreamNorm([False] * number, D)
    p, x = _values(layer), _random(number, 2, L, D)
    for s in range(number):
        _close(layer(x)[s], normalised(x[s].numpy()) * p["scale_SD"][s] + p["shift_SD"][s])


@each_number
@pytest.mark.parametrize(
    "relative_positions", [False, True], ids=["as published", "relative_positions"]
)
def test_equations_12_and_14_a_transformer_a_stream(relative_positions, number) -> None:
    layer = UserEncoder([False] * number, D, LAYERS, HEADS, L, 0.0, relative_positions)
    p, x = _values(layer), _random(number, 2, L, D)
    states = layer(x)
    for s in range(number):
        for b in range(2):
            _close(states[s, b], transformer(x[s, b].numpy(), p, s, relative_positions))


def test_equation_18_info_nce() -> None:
    one, other = _random(2, 7, D)
    ours = swap_loss(one, other, temperature=1.0)
    assert ours.item() == pytest.approx(info_nce(one.numpy(), other.numpy()))


def test_equation_19_cross_entropy_of_the_summed_score() -> None:
    torch.manual_seed(0)
    state, target = torch.randn(3, 4, D), torch.randn(3, N, D)  # of three streams
    own = [2, 0, 8, 2]
    total = 0.0
    for b in range(4):
        score = [sum(float(state[s, b] @ target[s, n]) for s in range(3)) for n in range(N)]
        total -= math.log(softmax(np.array(score))[own[b]])
    ours = catalogue_cross_entropy(
        torch.cat(list(state), 1), torch.cat(list(target), 1), torch.tensor(own)
    )
    assert ours.item() == pytest.approx(total / 4, rel=1e-5)


# The whole model.


def _model(streams: tuple[str, ...], **changed) -> tuple[Cammsr, dict[str, Array]]:
    """Preset `paper` with small sizes, and its values."""
    sizes = {"width": D, "heads": HEADS, "layers": LAYERS, "length": L, "dropout": 0.0}
    settings = PRESETS["paper"]["model"] | sizes | {"use_id": "id" in streams} | changed
    config = ModelConfig(**settings)
    dims = {name: DIMS[name] for name in streams if name != "id"}
    model = Cammsr(N, dims, C, **config.model_dump(exclude={"modalities"}))
    values = _values(model)
    model.items.measure(_catalogue(streams))
    return model, values


def _catalogue(streams: tuple[str, ...]) -> Catalogue:
    torch.manual_seed(2)
    features = {name: torch.randn(N, dim) * 3 + 1 for name, dim in DIMS.items() if name in streams}
    there_NS = _there(len(streams))
    present = {name: there_NS[:, s] for s, name in enumerate(streams)}
    row_N = torch.arange(N).where(present.pop("id", torch.ones(N).bool()), -1)
    return Catalogue(row_N, features, present, _labels())


HISTORY = [2, 0, 8, 5, 3]
"""Two labels; one; one, and no last stream; all; none."""


def _window(history: list[int]) -> Window:
    events = Events(torch.tensor(history), 1000 * torch.arange(len(history)))
    return cut(events, torch.tensor([0]), torch.tensor([len(history)]))


def paper_vectors(streams: tuple[str, ...], p: dict[str, Array]) -> Array:
    """Equations 2 and 3, x [S, N, D]: an embedding, or a linear map of standardised features."""
    catalogue, x_SND = _catalogue(streams), np.zeros((len(streams), N, D))
    modalities = [name for name in streams if name != "id"]
    for s, name in enumerate(streams):
        for n in range(N):
            if not _there(len(streams))[n, s]:
                x_SND[s, n] = p["items.missing_SD"][s]
            elif name == "id":
                x_SND[s, n] = p["items.id_table.weight"][n]
            else:
                f = catalogue.features[name].double().numpy()
                seen = f[catalogue.present[name].numpy()]
                at = f"items.projections.{modalities.index(name)}.linear"
                read = (f[n] - seen.mean(0)) / seen.std(0, ddof=1) / math.sqrt(DIMS[name])
                x_SND[s, n] = p[f"{at}.weight"] @ read + p[f"{at}.bias"]
    return x_SND


def paper_histories(
    streams: tuple[str, ...],
    p: dict[str, Array],
    x_SND: Array,
    history: list[int],
    config: dict[str, Any],
) -> Array:
    """Equations 4 to 11: what the Transformers are given, [S, L, D]."""
    scale_S = p.get("input_scale_T", np.ones(len(streams)))
    e_SLD = np.stack(
        [
            np.stack(
                [
                    scale_S[s] * x_SND[s, n] + p["position.weight"][at]
                    for at, n in enumerate(history)
                ]
            )
            for s in range(len(streams))
        ]
    )
    weight_SL = np.zeros(e_SLD.shape[:2])
    guidance = config["guidance"] if len(streams) > 1 else "equal"  # one has nothing to be told
    for at, n in enumerate(history):
        logits = [
            x_SND[s, n] @ p["guide.linear.weight_SIO"][s] + p["guide.linear.bias_SO"][s]
            for s in range(len(streams))
            if guidance != "equal"
        ]
        there = _there(len(streams))[n].numpy()
        weight_SL[:, at] = stream_weights(np.array(logits), LABELS[n], there, guidance)
    gate_SLK = [
        router(
            e_SLD[s],
            p["camoe.router.linear.weight_SIO"][s],
            p["camoe.router.linear.bias_SO"][s],
            config["router"],
            config["normalise_gates"],
        )
        for s in range(len(streams))
    ]
    camoe = {name.removeprefix("camoe."): value for name, value in p.items()}
    added_SLD = experts(e_SLD, np.stack(gate_SLK), camoe, config["expert_inputs"])
    return e_SLD + weight_SL[..., None] * added_SLD


def paper_states(p: dict[str, Array], e_SLD: Array, s: int, config: dict[str, Any]) -> Array:
    """Equations 12 to 14: what stream s's Transformer makes of a sequence [L, D]."""
    if config["input_norm"] == "dyt":
        x_LD = np.tanh(p["input_norm.alpha_S"][s] * e_SLD)
    else:
        x_LD = normalised(e_SLD) * p["input_norm.scale_SD"][s] + p["input_norm.shift_SD"][s]
    encoder = {name.removeprefix("encoder."): value for name, value in p.items()}
    return transformer(x_LD, encoder, s, relative_positions=False)


AS_PUBLISHED = {
    "guidance": "accuracy",
    "router": "attention",
    "normalise_gates": False,
    "expert_inputs": "all",
    "input_norm": "dyt",
    "embedding_scale": True,
}
VARIANTS = {
    "as published": {},
    "as printed": {"guidance": "difference"},
    "no guidance": {"guidance": "equal"},
    "linear router": {"router": "linear"},
    "gates of one": {"normalise_gates": True},
    "own inputs": {"expert_inputs": "own"},
    "layernorm": {"input_norm": "layernorm"},
    "no scale": {"embedding_scale": False},
}


def test_the_preset_is_as_published() -> None:
    assert PRESETS["paper"]["training"] == {"branch_share": 0.0, "swap_weight": 0.25}
    given = PRESETS["paper"]["model"] | {"heads": HEADS, "dropout": 0.1}
    config = ModelConfig(**given).model_dump(exclude={"modalities"})
    sizes = {"width": 64, "length": 50, "layers": 2, "experts": 4, "expert_hidden": 4.0}
    for name, value in (AS_PUBLISHED | sizes).items():
        assert config[name] == value, name
    model = Cammsr(N, DIMS, C, **config)
    ours = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert ours == {"items", "guide", "position", "input_scale_T", "camoe", "input_norm", "encoder"}
    assert {name for name, _ in model.items.named_buffers()} == {
        f"projections.{m}.{name}" for m in range(3) for name in ("mean", "scale")
    }


@each_streams
@pytest.mark.parametrize("changed", VARIANTS.values(), ids=VARIANTS.keys())
def test_equation_15_scores_of_the_whole_model(changed, streams) -> None:
    """After each event of a history, all items: the sum of the streams' inner products."""
    model, p = _model(streams, **changed)
    config = AS_PUBLISHED | changed
    x_SND = paper_vectors(streams, p)
    e_SLD = paper_histories(streams, p, x_SND, HISTORY, config)
    state_SLD = [paper_states(p, e_SLD[s], s, config) for s in range(len(streams))]
    score_LN = np.zeros((L, N))
    for at in range(L):
        for n in range(N):
            score_LN[at, n] = sum(state_SLD[s][at] @ x_SND[s, n] for s in range(len(streams)))
    tables: ItemTables = model.item_tables(_catalogue(streams))
    window = _window(HISTORY)
    _close(model.queries(tables, window)[0] @ tables.target_NV.T, score_LN)
    _close(model.last_queries(tables, window)[0] @ tables.target_NV.T, score_LN[-1])


@each_streams
def test_equations_2_to_4_streams_and_positions(streams) -> None:
    model, p = _model(streams, experts=0)
    x_SND = paper_vectors(streams, p)
    e_SBLD, _ = model.history(model.item_tables(_catalogue(streams)), _window(HISTORY))
    for s in range(len(streams)):
        for at, n in enumerate(HISTORY):
            item_D = p["input_scale_T"][s] * x_SND[s, n]
            _close(e_SBLD[s, 0, at], item_D + p["position.weight"][at])


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_equations_16_to_18_swapped_sequences(pair) -> None:
    """Both sequences with streams that traded places go through their own Transformers."""
    streams = STREAMS["id, text, image"]
    model, p = _model(streams)
    x_SND = paper_vectors(streams, p)
    histories = [HISTORY, [1, 4, 6, 7, 2], [3, 3, 0, 1, 8]]
    traded = np.random.default_rng(0).random((3, L)) < 0.5
    expected_2BD, given_2BLD = np.zeros((2, 3, D)), np.zeros((2, 3, L, D))
    for b, history in enumerate(histories):
        e_SLD = paper_histories(streams, p, x_SND, history, AS_PUBLISHED)
        for at in range(L):
            one, other = pair[::-1] if traded[b, at] else pair
            given_2BLD[0, b, at], given_2BLD[1, b, at] = e_SLD[one, at], e_SLD[other, at]
        for half in range(2):
            states = paper_states(p, given_2BLD[half, b], pair[half], AS_PUBLISHED)
            expected_2BD[half, b] = states[-1]
    tables = model.item_tables(_catalogue(streams))
    ours_SBLD = torch.cat([model.history(tables, _window(h))[0] for h in histories], dim=1)
    at_BL1 = torch.from_numpy(traded).unsqueeze(-1)
    one_BLD, other_BLD = ours_SBLD[pair[0]], ours_SBLD[pair[1]]
    swapped = torch.stack([one_BLD.where(~at_BL1, other_BLD), other_BLD.where(~at_BL1, one_BLD)])
    _close(swapped, given_2BLD)
    state_2BD = model.encode(swapped, None, list(pair))[:, :, -1]
    _close(state_2BD, expected_2BD)
    assert swap_loss(*state_2BD, temperature=1.0).item() == pytest.approx(
        info_nce(*expected_2BD), rel=1e-5
    )
