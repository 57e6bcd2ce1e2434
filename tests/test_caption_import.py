"""Published captions: every shape of file, keys that are unknown or come twice, and the way through the caption stage."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.caption import Caption
from jobs.caption_import import import_captioner
from jobs.caption_record import Ask
from jobs.text import read_captions
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.synthetic import write_synthetic

PUBLISHED, PKU = "A013N008V002C048L005", "A13N08-M_C048_L005"
SIXTEEN = [f"The person raises the right arm {n} times and waves at somebody far away." for n in range(1, 17)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips: two people, two classes, one camera."""
    out = tmp_path_factory.mktemp("synthetic") / "raw"
    write_synthetic(out, subjects=2, actions=2, cameras=(2,))
    return out


def keys_of(raw: Path) -> list[str]:
    return sorted(path.stem for path in (raw / "nturgb+d_skeletons").glob("*.skeleton"))


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_every_shape_of_file(tmp_path: Path) -> None:
    pairs, several = written(tmp_path / "a.json", {"k1": "One.", "k2": "Two."}), written(tmp_path / "b.json", {PUBLISHED: SIXTEEN})
    records = written(tmp_path / "c.json", [{"key": "k1", "text": "One."}, {"key": "k2", "text": "Two.", "texts": ["Zwei."]}])
    lines = tmp_path / "d.jsonl"
    lines.write_text('{"key": "k1", "text": "One."}\n\n{"k2": ["Two.", "Deux."]}\n')
    table = tmp_path / "e.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "text"), ("k1", 'One, "quoted".'), ("k2", "Two.")])
    expected = {
        pairs: {"k1": ("One.",), "k2": ("Two.",)},
        several: {PKU: tuple(SIXTEEN)},
        records: {"k1": ("One.",), "k2": ("Two.", "Zwei.")},
        lines: {"k1": ("One.",), "k2": ("Two.", "Deux.")},
        table: {"k1": ('One, "quoted".',), "k2": ("Two.",)},
    }
    for path, captions in expected.items():
        captioner = import_captioner(path)
        asks = [Ask(key) for key in captions]
        assert [answer.texts for answer in captioner(asks)] == list(captions.values()), path
        assert (captioner.name, captioner.provenance, captioner.sees) == ("import", "import", "nothing")
        assert (captioner.model, captioner.revision) == (str(path), sha256_of(path))
        assert captioner.decode == {"clips": len(captions), "texts": max(map(len, captions.values()))}


def test_a_clip_that_the_file_does_not_have(tmp_path: Path) -> None:
    captioner = import_captioner(written(tmp_path / "a.json", {"k1": "One.", "k2": "  ", "k3": []}))
    one, *others = captioner([Ask("k1"), Ask("k2"), Ask("k3"), Ask("k4")])
    assert one.texts == ("One.",) and not one.error
    assert [(other.texts, other.error) for other in others] == [
        ((), "no caption in a.json: empty"),
        ((), "no caption in a.json: empty"),
        ((), "no caption in a.json"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '{"k1": "One.", "k2": "Two.", "k1": "Other."}', "'k1' comes twice"),
        ("b.jsonl", '{"key": "k1", "text": "One."}\n{"key": "k1", "text": "Two."}\n', "b.jsonl:2: a second caption for k1"),
        ("c.csv", "key,text\nk1,One.\nk1,Two.\n", "c.csv:3: a second caption for k1"),
        ("d.csv", "name,text\nk1,One.\n", "must name the columns key and text"),
        ("e.json", '{"k1": 7}', "a caption is a key and a text"),
        ("f.json", '{"k1": "One."', "not JSON"),
        ("g.json", "{}", "no caption in it"),
        ("h.txt", "One.", r"captions are read from \.jsonl, \.json, \.csv"),
        ("i.jsonl", '{"key": "k1", "text": "kicking", "provenance": "label"}\n', "marked 'label', which importing would hide"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        import_captioner(path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_captioner(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('{"k1": "Ärm"}'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        import_captioner(tmp_path / "latin.json")


def test_unknown_keys_are_named(raw: Path, tmp_path: Path) -> None:
    keys = keys_of(raw)
    strangers = {f"S099C001P001R001A00{n}": "One." for n in range(1, 6)}
    path = written(tmp_path / "a.json", dict.fromkeys(keys, "One.") | strangers)
    with pytest.raises(InputError, match=r"a\.json: no sample of .*raw has the key 'S099C001P001R001A001', .* and 2 more; remove them"):
        Caption(out=tmp_path / "out", captioner="import", captions=path, data=raw, all=True)()
    assert not (tmp_path / "out").exists()


def test_several_captions_go_through_the_stage_to_packing(raw: Path, tmp_path: Path) -> None:
    keys = keys_of(raw)
    odd = "A person \u202elifts\x07 the left arm 😀 and\nlowers it again."
    path = written(tmp_path / "a.json", {key: [*SIXTEEN[:3], odd] for key in keys[:-1]})
    job: dict[str, Any] = {"out": tmp_path / "out", "captioner": "import", "captions": path, "data": raw, "all": True, "slice": 2}
    report = Caption(gate="report", **job)()
    records = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert [record["key"] for record in records] == keys[:-1] and report["clips"] == len(keys) - 1
    assert any("1 of them have no published caption" in line for line in Caption(**job).chosen().lines)
    first = records[0]
    assert (first["provenance"], first["captioner"], first["revision"]) == ("import", "import", sha256_of(path))
    assert first["text"] == SIXTEEN[0] and len(first["texts"]) == 3
    assert not set("\x07\u202e\n") & set("".join(first["texts"]))
    packed = read_captions(tmp_path / "out")
    assert sorted(packed) == keys[:-1]
    assert packed[keys[0]].texts[:3] == tuple(SIXTEEN[:3])
