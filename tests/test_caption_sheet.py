"""The page that captions are judged by: nothing that a caption says can do anything, and all of it can be seen."""

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acsar.skeleton import NTU25, UCLA20, Skeleton
from jobs.caption_pictures import Pictures
from jobs.caption_record import CaptionRecord, Strip
from jobs.caption_sheet import POLICY, Row, Said, sheet, write_sheet
from jobs.compare_captions import CompareCaptions, records_of, titles
from jobs.skeleton_strip import PAPER, skeleton_strip
from shards.errors import InputError
from tests.moves import packed_moves

HOSTILE = (
    "<script>alert(1)</script>",
    "</p></div></section><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "<a href=\"javascript:alert(1)\">click</a> <form action='//evil'><input name=x></form>",
    "../../../etc/passwd",
    "file:///etc/passwd {{7*7}} ${7*7} %s \\x41",
    "<!-- a comment --><style>body{display:none}</style><base href='//evil'>",
    "&lt;b&gt; is already escaped & this is not",
    "\x00\x07\x1b[31mred\x1b[0m \u202egnp.exe \u200bnothing\u2028line\ud800half",
    "🎉 a person claps 👏🏽, 右手",
)
MARKUP = {
    *("html", "head", "meta", "title", "style", "body", "h1", "p", "table", "tr", "th", "td", "section", "span", "div", "img"),
}


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.comments = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments += 1

    @property
    def text(self) -> str:
        return "".join(self.words)


def record(key: str, text: str, captioner: str = "model", **changes: Any) -> CaptionRecord:
    return CaptionRecord(key, text, "vlm", captioner, "somebody/model", tokens=len(text.split()), **changes)


def strip(key: str, height: int = 300) -> Strip:
    image = np.zeros((height, 5 * height, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 255, 5 * height).astype(np.uint8)
    return Strip(key, image, (1, 4, 7, 10, 13), ((0, 0, 10, 10),) * 5, "person")


def hostile_page() -> str:
    rows = [
        Row(
            f"K{i}{text}",
            strip("k") if i % 2 else text,
            (Said(record("k", text, prompt=text, error=text if i == 3 else ""), 0.25, text), None),
            text,
        )
        for i, text in enumerate(HOSTILE)
    ]
    rows.append(Row("flagged", strip("k"), (Said(record("k", HOSTILE[0], flags=(HOSTILE[1],), notes=(HOSTILE[2],))), None)))
    return sheet(HOSTILE[0], [HOSTILE[1]], [HOSTILE[2], "other"], rows)


def test_nothing_that_a_caption_says_is_markup() -> None:
    html = hostile_page()
    page = Page(html)
    assert {tag for tag, _ in page.elements} == MARKUP and page.comments == 0
    attributes = Counter(name for _, attrs in page.elements for name in attrs)
    assert not [name for name in attributes if name.startswith("on")] and not {"href", "action", "srcdoc"} & set(attributes)
    assert {tag for tag, attrs in page.elements if "src" in attrs} == {"img"}
    sources = [attrs["src"] or "" for tag, attrs in page.elements if tag == "img"]
    assert sources and all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", source) for source in sources)
    classes = {attrs.get("class") for _, attrs in page.elements if attrs.get("class")}
    assert classes == {"key", "about", "told", "who", "text", "small", "flag", "none", "code", "number"}
    styles = {attrs["style"] for _, attrs in page.elements if "style" in attrs}
    assert styles == {"--columns: 2"}


def test_what_captions_say_is_all_on_the_page() -> None:
    page = Page(hostile_page())
    for text in HOSTILE[:-2]:
        assert text in page.text
    assert "🎉 a person claps 👏🏽, 右手" in page.text


def test_what_cannot_be_seen_is_shown_by_its_code() -> None:
    html = hostile_page()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2066-\u2069\ud800-\udfff\ufeff]", html)
    for code in ("U+0000", "U+0007", "U+001B", "U+202E", "U+200B", "U+2028", "U+D800"):
        assert code in html
    html.encode("utf-8")


def test_the_page_forbids_what_it_does_not_need() -> None:
    page = Page(hostile_page())
    (policy,) = [attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == POLICY and "default-src 'none'" in POLICY and "script" not in POLICY


def test_strips_are_small_pictures_inside_the_page(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sheet.html"
    write_sheet(path, "t", [], ["a"], [Row("k", strip("k", 448), (Said(record("k", "x")),))])
    (source,) = [attrs["src"] for tag, attrs in Page(path.read_text()).elements if tag == "img"]
    assert source is not None
    picture = Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))
    assert picture.format == "JPEG" and picture.size == (1120, 224)
    assert len(path.read_bytes()) < 60_000 and [p.name for p in path.parent.iterdir()] == ["sheet.html"]


def test_rows_have_a_cell_for_each_captioner() -> None:
    with pytest.raises(ValueError, match="k has 1 cells for 2 columns"):
        sheet("t", [], ["a", "b"], [Row("k", "none", (None,))])


def test_the_table_counts_what_each_captioner_did() -> None:
    said = [record("1", "two words"), record("2", "two words"), record("3", "a", flags=("refusal",)), record("4", "", error="no person")]
    page = sheet("t", [], ["m"], [Row(r.key, "none", (Said(r, 0.5 if r.text else None),)) for r in said])
    cells = re.findall("<td[^>]*>([^<]*)</td>", page)
    assert cells == ["m", "4", "2", "1", "refusal 1", "2", "2", "0.500"]


# --- comparing sets


def caption_file(path: Path, texts: dict[str, str], captioner: str, **changes: Any) -> Path:
    path.mkdir(parents=True)
    lines = [json.dumps(record(key, text, captioner, **changes).as_json()) for key, text in texts.items()]
    (path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_sets_of_captions_side_by_side(tmp_path: Path) -> None:
    packed = packed_moves(tmp_path / "packed", subjects=1, per=3)
    keys = sorted(sample.key for sample in packed.samples)
    first = caption_file(tmp_path / "one" / "set", {key: f"first of {key}" for key in keys}, "ovis2")
    second = caption_file(tmp_path / "two" / "set", dict.fromkeys(keys[1:], HOSTILE[0]), "deepseek-vl", flags=("refusal",))
    published = tmp_path / "published.json"
    published.write_text(json.dumps({key: [f"third of {key}", "again"] for key in keys}))
    job = CompareCaptions(tmp_path / "out", (str(first), str(second), str(published)), data=packed.path, clips=5)
    report = job()
    assert report["keys"] == job()["keys"] and len(report["keys"]) == 5 and keys[0] not in report["keys"]
    assert report["columns"] == [str(first), str(second), "published.json"]
    html = (tmp_path / "out" / "sheet.html").read_text()
    page = Page(html)
    assert len([tag for tag, _ in page.elements if tag == "section"]) == len([tag for tag, _ in page.elements if tag == "img"]) == 5
    for key in report["keys"]:
        assert f"first of {key}" in page.text and f"third of {key}" in page.text
    assert "<script>alert(1)</script>" in page.text and "refusal 5" in page.text and "again" in page.text
    assert "CLIP score: not measured" in page.text
    other = CompareCaptions(tmp_path / "out2", (str(first),), data=packed.path, clips=5, seed=1)()
    assert other["keys"] != report["keys"]


def test_captioners_that_are_run_on_the_spot(tmp_path: Path) -> None:
    from shards.synthetic import FOLDER, write_synthetic

    write_synthetic(tmp_path / "raw", subjects=2, cameras=(1,), actions=3)
    job = CompareCaptions(tmp_path / "out", captioners=("motion",), data=tmp_path / "raw" / FOLDER, clips=4, all=True)
    report = job()
    page = Page((tmp_path / "out" / "sheet.html").read_text())
    assert len(report["keys"]) == 4 and report["columns"] == ["motion"]
    found = records_of(tmp_path / "out" / "captions-motion")
    assert sorted(found) == report["keys"] and all(found[key].text in page.text for key in found)


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    first, second = caption_file(tmp_path / "a", {"k1": "x"}, "m"), caption_file(tmp_path / "b", {"k2": "x"}, "m")
    with pytest.raises(InputError, match="no clip has a caption in all of"):
        CompareCaptions(tmp_path / "out", (str(first), str(second)))()
    with pytest.raises(InputError, match="what to compare"):
        CompareCaptions(tmp_path / "out")()
    (tmp_path / "a" / "captions.jsonl").write_text(json.dumps(record("k", "x").as_json()) + "\n{half")
    with pytest.raises(InputError, match=r"captions\.jsonl:2: not JSON"):
        records_of(tmp_path / "a")
    (tmp_path / "a" / "captions.jsonl").write_text((json.dumps(record("k", "x").as_json()) + "\n") * 2)
    with pytest.raises(InputError, match="a second record of k"):
        records_of(tmp_path / "a")
    assert titles(["x/a", "y/a", "z/b"]) == ["x/a", "y/a", "b"]


# --- what a clip looks like


@pytest.mark.parametrize("layout", [NTU25, UCLA20])
@pytest.mark.parametrize("up", [1, 2])
def test_stick_figures_stand_on_their_feet(layout: Skeleton, up: int) -> None:
    joints = np.zeros((3, 20, layout.size, 2), np.float32)
    joints[up, :, :, 0] = [-2.0 if "Foot" in name else 1.0 if name == "Head" else 0.0 for name in layout.joints]
    joints[up, :, layout.spine[1], 0] += 0.5
    joints[0, :, :, 0] = [0.5 if "Left" in name else -0.5 if "Right" in name else 0.0 for name in layout.joints]
    made = skeleton_strip("k", joints, layout)
    ink = (made.image != PAPER).any(2)
    parts = np.array_split(ink, 5, axis=1)
    assert len(made.frames) == 5 and made.image.shape[0] == 224 and all(part.sum() > 50 for part in parts)
    top, bottom = np.flatnonzero(parts[2][:20, 5:].any(0)), np.flatnonzero(parts[2][-20:, 5:].any(0))
    assert 0 < np.ptp(top) < np.ptp(bottom) / 2  # one head above, two feet apart below


def test_a_clip_without_anything_to_look_at_says_so(tmp_path: Path) -> None:
    assert "neither a video nor a skeleton" in str(Pictures()(record("k", "x")))
    packed = packed_moves(tmp_path / "packed", subjects=1, per=1)
    pictures = Pictures.of(None, packed.path)
    assert isinstance(pictures(record("s1c0r00", "x")), Strip)
    assert "no sample 'other'" in str(pictures(record("other", "x")))


def test_strips_of_videos_and_scores_of_clip(tmp_path: Path) -> None:
    from shards.synthetic import write_synthetic
    from tests.tiny_models import tiny_clip

    write_synthetic(tmp_path / "raw", subjects=1, cameras=(1,), actions=3, videos=True)
    tiny_clip(tmp_path / "clip")
    job = CompareCaptions(tmp_path / "out", (str(tmp_path / "raw" / "captions.jsonl"),), videos=tmp_path / "raw" / "videos", clips=2)
    report = replace(job, score_weights=str(tmp_path / "clip"))()
    assert any("cosine of text and frames by ViT-B-32 clip" in line for line in report["lines"])
    page = Page((tmp_path / "out" / "sheet.html").read_text())
    assert len(re.findall(r"CLIP -?0\.\d{3}", page.text)) == 2 and page.text.count("crop: full, frames") == 2
    assert any("CLIP score: not measured (" in line for line in replace(job, score_weights=str(tmp_path / "none.pt"))()["lines"])
    (tmp_path / "raw" / "videos" / f"{report['keys'][0]}.avi").write_bytes(b"no video")
    assert any("1 clips have no strip" in line for line in replace(job, score="no")()["lines"])
