"""The report and the gallery as files: what stands in them, safely, and how large they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pages import HOSTILE, make_shop
from PIL import Image
from typer.testing import CliRunner

from cammsr_cli.app import app
from cammsr_cli.errors import CammsrError
from cammsr_cli.media.source import MediaSource
from cammsr_cli.ranking.evaluate import ranked
from cammsr_cli.report import thumbnails
from cammsr_cli.report.evaluation import training_curves
from cammsr_cli.report.gallery import LISTED, SAMPLED, of_sample, spread_over_categories
from cammsr_cli.report.page import clock, rendered
from cammsr_cli.report.thumbnails import Album, Wanted

PACKAGE = Path(__file__).resolve().parents[2] / "cammsr_cli" / "report"


class _Page(HTMLParser):
    """What a page consists of: elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Mapping[str, str | None]]] = []
        self.texts: list[str] = []
        self.json: dict[str, object] = {}
        self._within: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = (dict(attrs).get("id") or tag) if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._within = None

    def handle_data(self, data: str) -> None:
        if self._within in ("pictures", "charts"):
            self.json[self._within] = json.loads(data)
        elif self._within is None:
            self.texts.append(data)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def report(shop: Path) -> Path:
    file = shop / "report.html"
    result = CliRunner().invoke(
        app,
        [
            "evaluate", str(shop / "run"), "--json",
            "--report", str(file), "--media-root", str(shop / "media"),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["details"] is None  # they were not asked for
    return file


def test_a_report_is_one_file_that_asks_for_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    page = _Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster", "background"):
            assert name not in attributes, (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in (PACKAGE / "templates" / "style.css").read_text(encoding="utf-8")
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")
    scripts = [a for tag, a in page.elements if tag == "script" and a.get("type") is None]
    assert len(re.findall("'sha256-", policy)) == len(scripts) == 3


def test_a_report_says_what_was_measured(report: Path, shop: Path) -> None:
    page = _Page(report.read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.texts).split())
    assert str(shop / "toy.h5") in text
    for name in ("Recall@5", "NDCG@10", "MRR@20", "Faithfulness", "Training", "Worth"):
        assert name in text
    people = [a for _, a in page.elements if a.get("class") == "person"]
    assert len(people) == SAMPLED
    charts = page.json["charts"]
    assert isinstance(charts, dict)
    assert [row["epoch"] for row in charts["training"]] == [1, 2, 3]
    assert {row["name"] for row in charts["worth"]} == {"image", "text", "video"}
    assert {group["by"] for group in charts["slices"]} >= {"category", "popularity"}


@pytest.mark.parametrize("title", HOSTILE)
def test_texts_of_strangers_come_out_as_text(report: Path, title: str) -> None:
    shown = "".join("\ufffd" if c < " " or c == "\x7f" else c for c in title)
    page = _Page(report.read_text(encoding="utf-8"))
    assert shown in page.texts
    assert "\x1b" not in "".join(page.texts)
    assert not any("onerror" in attributes for _, attributes in page.elements)
    kinds = {tag for tag, _ in page.elements}
    assert kinds.isdisjoint({"marquee", "svg", "audio", "b2"})
    scripts = [a for tag, a in page.elements if tag == "script"]
    assert len(scripts) == 5


def test_data_in_a_script_element_cannot_end_it() -> None:
    text = rendered(
        "gallery.html",
        {
            "gallery": _empty_gallery(),
            "album": Album(addresses=["</script><script>alert(1)</script>\u2028"]),
            "title": "t", "command": "c", "made": "m", "version": "v",
        },
        charts=None,
    )  # fmt: skip
    data = text.split('id="pictures">')[1].split("</script>")[0]
    assert json.loads(data) == ["</script><script>alert(1)</script>\u2028"]
    assert "\u2028" not in text
    assert "<script>alert(1)" not in text


def test_a_user_is_shown_as_the_model_saw_them(shop: Path) -> None:
    found = ranked(shop / "run", data=None, device=torch.device("cpu"))
    gallery = of_sample(found, [])
    cases, data = found.ranking.cases, found.run.data
    place = {data.user_ids[user]: at for at, user in enumerate(cases.user_U)}
    top = found.ranking.top(LISTED).tolist()
    for person in gallery.people:
        at = place[person.user]
        history = data.event_item[cases.start_U[at] : cases.end_U[at]].tolist()
        assert person.events == len(history)
        newest_first = [data.item_ids[item] for item in history[::-1][:12]]
        assert [past.item.id for past in person.past] == newest_first
        assert [card.item.id for card in person.cards] == [data.item_ids[i] for i in top[at]]
        assert person.next is not None
        assert person.next.item.id == data.item_ids[cases.item_U[at]]
        assert person.next.rank == found.rank[at]
        for place_of, card in enumerate(person.cards, 1):
            assert card.chosen == (person.next.rank == place_of)


def test_the_sample_has_users_of_every_category(shop: Path) -> None:
    found = ranked(shop / "run", data=None, device=torch.device("cpu"))
    chosen = spread_over_categories(found)
    assert len(chosen) == len(set(chosen.tolist())) == SAMPLED
    label_NC, cases = found.run.data.category_labels(), found.ranking.cases
    favourites = [
        int(label_NC[found.run.data.event_item[cases.start_U[u] : cases.end_U[u]]].sum(0).argmax())
        for u in chosen
    ]
    assert min(np.bincount(favourites, minlength=4)) >= 4


def test_a_gallery_of_the_users_that_were_named(shop: Path) -> None:
    file = shop / "gallery.html"
    typed = ["recommend", str(shop / "run"), "--user", "u3", "--user", "u1", "--k", "4"]
    typed += ["--html", str(file), "--media-root", str(shop / "media")]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    assert f"{file}: 2 users" in result.stdout
    page = _Page(file.read_text(encoding="utf-8"))
    people = [a["data-user"] for _, a in page.elements if a.get("class") == "person"]
    assert people == ["u3", "u1"]
    assert len([a for _, a in page.elements if (a.get("class") or "").startswith("card")]) >= 8
    assert "Because you chose " in page.texts

    again = CliRunner().invoke(app, typed)
    assert again.exit_code == 2
    assert "is there already" in again.output
    plain = CliRunner().invoke(app, [*typed, "--force", "--json"])
    assert [one["user"] for one in json.loads(plain.stdout)] == ["u3", "u1"]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["evaluate", "RUN", "--report", "report.txt"], "pages are written as .html"),
        (["evaluate", "RUN", "--report", "r.html", "--media-root", "no"], "is not a folder"),
        (["recommend", "RUN", "--user", "u1", "--html", "g.html", "--out", "a.csv"], "take one"),
        (["recommend", "RUN", "--users-from", "MANY", "--html", "g.html"], "200 users at most"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    shop: Path, tmp_path: Path, typed: list[str], says: str
) -> None:
    many = tmp_path / "many.txt"
    many.write_text("".join(f"u{at}\n" for at in range(201)), encoding="utf-8")
    words = {"RUN": str(shop / "run"), "MANY": str(many)}
    result = CliRunner().invoke(app, [words.get(word, word) for word in typed])
    assert result.exit_code == 2
    assert says in result.output


def test_pictures_outside_the_media_folder_are_not_read(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    Image.new("RGB", (60, 40), "red").save(root / "in.png")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "out.png")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    (root / "text.png").write_text("no picture", encoding="utf-8")
    names = ["in.png", "../out.png", str(tmp_path / "out.png"), "link.png", "text.png", "no.png"]
    wanted = [Wanted("image", name, 32) for name in [*names, "https://shop.example/a.png"]]
    album = Album.of(wanted, MediaSource(root, tmp_path / "cache"))
    assert [album.get(one) is not None for one in wanted] == [True] + [False] * 6
    assert album.missing.total() == 6
    thumbnail = album.get(wanted[0])
    assert thumbnail is not None
    assert (thumbnail.width, thumbnail.height) == (32, 21)
    assert album.addresses[0].startswith("data:image/webp;base64,")


def test_pictures_are_made_smaller_until_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    for at in range(4):
        Image.fromarray(np.roll(noise, at, 0)).save(tmp_path / f"{at}.png")
    wanted = [Wanted("image", f"{at}.png", 160) for at in range(4)]
    source = MediaSource(tmp_path, None)
    large = Album.of(wanted, source)
    monkeypatch.setattr(thumbnails, "BUDGET", sum(map(len, large.addresses)) // 2)
    small = Album.of(wanted, source)
    assert not small.missing
    assert sum(map(len, small.addresses)) < thumbnails.BUDGET
    sizes = {thumbnail.width for one in wanted if (thumbnail := small.get(one))}
    assert sizes
    assert max(sizes) < 160
    monkeypatch.setattr(thumbnails, "BUDGET", 3_000)
    none = Album.of(wanted, source)
    assert none.missing["the page would be too large"] >= 1
    assert sum(map(len, none.addresses)) <= 3_000


def test_a_damaged_metrics_file_is_told(tmp_path: Path) -> None:
    assert training_curves(tmp_path / "no.jsonl") == []
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"epoch": 1, "losses": {"recommendation": 2.5}, "ndcg": 0.1}\n{"epo', "utf-8")
    with pytest.raises(CammsrError, match="damaged at line 2"):
        training_curves(file)


def test_moments_of_clips() -> None:
    assert [clock(s) for s in (0.0, 9.94, 10, 61.9, 3600)] == [
        "0.0 s", "9.9 s", "0:10", "1:01", "1:00:00",
    ]  # fmt: skip


def test_what_is_inlined_has_its_licences() -> None:
    licences = (PACKAGE / "charts" / "LICENSES.txt").read_text(encoding="utf-8")
    assert "@observablehq/plot" in licences
    assert "d3-scale" in licences
    if shutil.which("node") is not None:
        script = "const vm=require('vm'),fs=require('fs');new vm.Script(fs.readFileSync(0,'utf8'))"
        bundle = (PACKAGE / "charts" / "charts.min.js").read_bytes()
        subprocess.run(["node", "-e", script], input=bundle, check=True)


def _empty_gallery() -> object:
    from cammsr_cli.report.gallery import Gallery

    return Gallery([], ["id"], [])
