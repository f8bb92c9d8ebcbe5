"""Why an item: each past item left out in turn, the categories, the sentence that fits."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cammsr_encoders.protocol import BadSample
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.video import VideoEncoder
from toy_recommender import make_recommender

from cammsr_cli.data.dataset import ModalityInfo
from cammsr_cli.encoding.engine import full_fingerprint
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.ranking import reasons, sessions
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.recommendations import BECAUSE


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return make_recommender(tmp_path_factory.mktemp("toy"))


def _lift(recommender: Recommender, history: list[tuple[str, int]], items: list[str]) -> np.ndarray:
    """Scores above the average item's, asked of the model anew."""
    run = recommender.run
    text = ",".join(f"{item}@{time}" for item, time in history)
    query_UV, _ = recommender._queries(sessions.of_visitor(run.data, text))
    target_NV = recommender.tables.target_NV
    offset = target_NV[[run.data.item_ids.index(one) for one in items]] - target_NV.mean(0)
    return (offset @ query_UV[0]).numpy()


def _history(recommender: Recommender, user: int) -> list[tuple[str, int]]:
    data = recommender.run.data
    own = slice(data.event_indptr[user], data.event_indptr[user + 1])
    pairs = zip(data.event_item[own].tolist(), data.event_time[own].tolist(), strict=True)
    return [(data.item_ids[item], time) for item, time in pairs]


@pytest.mark.parametrize("user", [1, 12, 40])
def test_what_mattered_is_what_is_missed_when_it_is_left_out(
    recommender: Recommender, user: int
) -> None:
    session = recommender.of_users(np.array([user]))
    (plain,) = recommender.lists(session, 4)
    remarks: list[str] = []
    explained = recommender.explained(plain, session, remarks)
    items = [one.item for one in explained.items]
    assert items == [one.item for one in plain.items]
    history = _history(recommender, user)[-recommender.run.model.length :]
    whole = _lift(recommender, history, items)
    effects: list[dict[str, float]] = [{} for _ in items]
    for left_out in range(len(history)):
        without = _lift(recommender, history[:left_out] + history[left_out + 1 :], items)
        past = history[left_out][0]
        for place, effect in enumerate((whole - without).tolist()):
            effects[place][past] = effects[place].get(past, 0) + effect
    for one, effect_of in zip(explained.items, effects, strict=True):
        best = sorted(effect_of.items(), key=lambda pair: -pair[1])[:BECAUSE]
        expected = [(past, effect) for past, effect in best if effect > 0]
        assert [told.item for told in one.because] == [past for past, _ in expected]
        assert [told.effect for told in one.because] == pytest.approx(
            [effect for _, effect in expected], abs=1e-4
        )
        assert len(one.predicted) == 3
        assert list(one.predicted.values()) == sorted(one.predicted.values(), reverse=True)


def test_of_one_past_item_all_is_its_doing(recommender: Recommender) -> None:
    session = sessions.of_visitor(recommender.run.data, "i7")
    (plain,) = recommender.lists(session, 3)
    explained = recommender.explained(plain, session, [])
    for one in explained.items:
        assert [told.item for told in one.because] in ([], ["i7"])
    assert any(one.because for one in explained.items)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? four", ["One.", "Two!", "Three?", "four"]),
        ("Costs 3.50 euros. Fine", ["Costs 3.50 euros.", "Fine"]),
        ("  no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_of_a_text(text: str, found: list[str]) -> None:
    assert reasons.sentences(text) == found


def test_the_frame_that_a_user_asks_for_is_chosen(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    clip = tmp_path / "x.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=2, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    encoder = VideoEncoder(frames=4, size=64)
    fingerprint = full_fingerprint(encoder, "video")
    info = ModalityInfo(encoder.dim, "video", fingerprint, ("video",))
    torch.manual_seed(0)
    model = Cammsr(5, {"video": encoder.dim}, 0, width=32, length=4, layers=1).eval()
    chooser = reasons.FrameChooser(model, "video", info)
    x_RD = chooser.projected([one for _, one in encoder.moments({"video": str(clip)})])
    for at, seconds in enumerate((0.0, 0.5, 1.0, 1.5)):
        query_V = torch.zeros(3 * 32)
        query_V[2 * 32 :] = x_RD[at] - x_RD.mean(0)
        assert chooser.best(clip, query_V) == pytest.approx(seconds)
    clip.write_bytes(b"no clip")
    assert chooser.best(clip, query_V) == pytest.approx(1.5)  # it is known already
    with pytest.raises(BadSample):
        reasons.FrameChooser(model, "video", info).best(clip, query_V)


def test_an_encoder_that_cannot_tell_frames_apart_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = VideoEncoder(frames=4, size=64)
    info = ModalityInfo(encoder.dim, "video", full_fingerprint(encoder, "video"), ("video",))
    model = Cammsr(5, {"video": encoder.dim}, 0, width=32, length=4, layers=1)
    monkeypatch.setattr(VideoEncoder, "moments", None)
    with pytest.raises(CammsrError, match="does not tell a clip's frames apart"):
        reasons.FrameChooser(model, "video", info)


def test_the_sentence_that_a_user_asks_for_is_chosen(recommender: Recommender) -> None:
    encoder = TextEncoder()
    info = ModalityInfo(
        encoder.dim, "text", full_fingerprint(encoder, "text"), ("title", "description")
    )
    text = "It comes in a blue box. The engine of this racing car is loud. Wash it by hand."
    asked = encoder.encode(["a fast car with a roaring motor"])
    torch.manual_seed(0)
    model = Cammsr(5, {"text": encoder.dim}, 0, width=384, length=4, layers=1, fused=True).eval()
    projection = model.items.projections[0]
    with torch.no_grad():  # hands on what it is given
        projection.scale.fill_(1.0)
        projection.linear.weight.copy_(torch.eye(384))
    chooser = reasons.SentenceChooser(model, "text", info)
    query_V = torch.zeros(3 * 384)
    query_V[2 * 384 :] = torch.from_numpy(asked[0])  # of the id, the second id, the text
    assert chooser.best(text, query_V) == "The engine of this racing car is loud."
    assert chooser.best("Only one", query_V) == "Only one"


@pytest.mark.parametrize(
    ("fingerprint", "says"),
    [
        ('{"vectors": "sha256:0"}', "do not tell how they were made"),
        (
            '{"encoder": "cammsr_encoders.text:TextEncoder", "model": "all-MiniLM-L6-v2", '
            '"version": "0.0.1", "weights": "sha256:0"}',
            "not the one that made the text vectors",
        ),
    ],
)
def test_another_encoder_chooses_no_sentences(
    recommender: Recommender, fingerprint: str, says: str
) -> None:
    info = ModalityInfo(384, "text", fingerprint, ("title", "description"))
    with pytest.raises(CammsrError, match=says):
        reasons.SentenceChooser(recommender.run.model, "text", info)
