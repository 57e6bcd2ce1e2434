"""The same clips described by several captioners, on one page to judge them by (the paper's figure 3)."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jobs.caption import Caption
from jobs.caption_pictures import Pictures
from jobs.caption_prompts import DEFAULT
from jobs.caption_record import CaptionRecord, Strip
from jobs.caption_sheet import Row, Said, write_sheet
from jobs.text import captions_of
from shards.errors import InputError
from shards.manifest import write_file

Say = Callable[[str], None]


@dataclass(frozen=True)
class CompareCaptions:
    """Compare captioners on the same clips: sets that are there, and captioners that are run on them here."""

    out: Path  # folder of the page (sheet.html) and of what is captioned here
    captions: tuple[str, ...] = ()  # folders of launch/caption.py, or files of captions
    captioners: tuple[str, ...] = ()  # run here: ovis2, deepseek-vl, a model's name or folder, motion
    videos: Path | None = None  # folder of videos: for captioners that look at them, and for the strips on the page
    data: Path | None = None  # skeletons, raw or packed: which clips there are, what motion looks at, stick figures where there is no video
    protocol: str = ""  # whose training part the clips are taken from, where no set of captions names them
    all: bool = False  # from the test part too
    clips: int = 50  # how many
    seed: int = 0  # which ones
    prompts: tuple[str, ...] = DEFAULT  # of the captioners that are run here, as in launch/caption.py; so are the following
    frames: Literal[3, 5, 8] = 5
    detector: str = "yolov5mu"
    boxes: Path | None = None
    max_tokens: int = 128
    tiles: int | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    score: Literal["auto", "no"] = "auto"  # CLIP's score of text and strip: auto: where its weights are there
    score_model: str = "ViT-B-32"  # the CLIP model of the score, as open_clip names it
    score_weights: str = "openai"  # its weights: open_clip's name, or a file

    def __call__(self, say: Say = lambda line: None) -> dict[str, Any]:
        """Write OUT/sheet.html; where it is, which clips are on it, and `lines` for people.

        Raises InputError for what the user can mend."""
        if self.clips < 1 or not (self.captions or self.captioners):
            raise InputError("name at least one clip (--clips) and what to compare: --captions DIR,DIR or --captioners NAME,NAME")
        sets = {named: records_of(Path(named)) for named in self.captions}
        keys = self.choose(sets)
        columns = titles([*sets, *self.captioners])
        told = [sets[named] for named in sets]
        for captioner in self.captioners:
            say(f"{captioner}: {len(keys)} clips")
            told.append(self.run(captioner, keys))
        pictures = Pictures.of(self.videos, self.data)
        strips: dict[str, Strip | str] = {}
        for key in keys:
            found = [records[key] for records in told if key in records]
            strips[key] = pictures(next((record for record in found if record.video and record.frames), found[0]))
        scores, why = self.scores(keys, strips, told)
        rows = [
            Row(
                key,
                strips[key],
                tuple(Said(r[key], s.get(key)) if key in r else None for r, s in zip(told, scores, strict=True)),
            )
            for key in keys
        ]
        about = [f"{len(keys)} clips, the same for every captioner, chosen by key and seed {self.seed}.", f"CLIP score: {why}."]
        about += [f"{column}: {made_by(records)}" for column, records in zip(columns, told, strict=True)]
        page = self.out / "sheet.html"
        write_sheet(page, "Captions of the same clips", about, columns, rows)
        without = sum(isinstance(strip, str) for strip in strips.values())
        lines = [f"{len(keys)} clips, {len(columns)} captioners: {page}", f"CLIP score: {why}"]
        if without:
            lines.append(f"{without} clips have no strip: {next(strip for strip in strips.values() if isinstance(strip, str))}")
        return {"sheet": str(page), "keys": keys, "columns": columns, "lines": lines}

    def choose(self, sets: dict[str, dict[str, CaptionRecord]]) -> list[str]:
        """The clips, sorted: those that all sets know, or else that the first captioner could be asked about; by sha256 of seed and key.

        InputError where there is none."""
        if sets:
            common = set.intersection(*(set(records) for records in sets.values()))
            if not common:
                raise InputError(f"no clip has a caption in all of {', '.join(sets)}: are they of the same data set?")
        else:
            common = set(self.caption(self.captioners[0]).chosen().keys)
        order = sorted(common, key=lambda key: hashlib.sha256(f"{self.seed}:{key}".encode()).digest())
        return sorted(order[: self.clips])

    def caption(self, captioner: str) -> Caption:
        """The stage that runs one captioner."""
        return Caption(
            out=self.out / f"captions-{re.sub(r'[^A-Za-z0-9_-]+', '-', captioner).strip('-') or 'captioner'}",
            videos=self.videos,
            data=self.data,
            protocol=self.protocol,
            all=self.all,
            captioner=captioner,
            prompts=self.prompts,
            frames=self.frames,
            detector=self.detector,
            boxes=self.boxes,
            max_tokens=self.max_tokens,
            tiles=self.tiles,
            precision=self.precision,
            device=self.device,
            gate="report",  # what the gate holds against a caption is on the page
        )

    def run(self, captioner: str, keys: Sequence[str]) -> dict[str, CaptionRecord]:
        """Records of one captioner on these clips; what is there already is not asked again."""
        path = self.out / "keys.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, [f"{key}\n".encode() for key in keys])
        job = replace(self.caption(captioner), keys=path, all=self.all or bool(self.captions))
        job()
        return records_of(job.out)

    def scores(
        self, keys: Sequence[str], strips: dict[str, Strip | str], told: Sequence[dict[str, CaptionRecord]]
    ) -> tuple[list[dict[str, float]], str]:
        """CLIP's score by key for each captioner, and what is to be said about it: by what, or why not."""
        nothing: list[dict[str, float]] = [{} for _ in told]
        if self.score == "no":
            return nothing, "not asked for"
        pairs = [
            (i, key, strip, records[key].text)
            for i, records in enumerate(told)
            for key in keys
            if key in records and records[key].text and isinstance(strip := strips[key], Strip) and self.videos is not None
        ]
        if not pairs:
            return nothing, "not measured, there is no picture of a clip"
        from jobs.encode_text import image_text_scores

        device = "cpu" if self.device == "auto" else self.device
        try:
            found = image_text_scores(
                [strip for _, _, strip, _ in pairs],
                [text for _, _, _, text in pairs],
                model=self.score_model,
                pretrained=self.score_weights,
                device=device,
            )
        except InputError as error:
            return nothing, f"not measured ({'; '.join(line.strip() for line in str(error).splitlines())})"
        for (i, key, _, _), value in zip(pairs, found, strict=True):
            nothing[i][key] = value
        return nothing, f"cosine of text and frames by {self.score_model} {Path(self.score_weights).name}, a hint and no judgement"


def records_of(path: Path) -> dict[str, CaptionRecord]:
    """Records by key of a folder of launch/caption.py (what its gate refused too), of its file, or of any file of captions.

    Raises InputError naming what is wrong."""
    file = path
    if path.is_dir():
        file = next((path / name for name in ("captions.jsonl", "refused.jsonl") if (path / name).is_file()), path / "captions.jsonl")
    if file.suffix == ".jsonl" and file.is_file():
        found: dict[str, CaptionRecord] = {}
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        if lines and '"captioner"' in lines[0]:
            for number, line in enumerate(lines, 1):
                record = CaptionRecord.of(_parsed(line, f"{file}:{number}"), f"{file}:{number}")
                if record.key in found:
                    raise InputError(f"{file}:{number}: a second record of {record.key}; keep one")
                found[record.key] = record
            return found
    captions = captions_of(file)
    return {
        key: CaptionRecord(key, caption.text, caption.provenance, "import", file.name, texts=caption.texts[1:])
        for key, caption in captions.usable.items()
    }


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a caption record")
    return value


def titles(names: Sequence[str]) -> list[str]:
    """What paths are called on the page: their last part, or all of it where that is not enough."""
    short = [Path(name).name for name in names]
    return [name if short.count(last) > 1 else last for name, last in zip(names, short, strict=True)]


def made_by(records: dict[str, CaptionRecord]) -> str:
    """Who described these clips: captioner, model, revision, in a line."""
    makers = {" ".join(dict.fromkeys(filter(None, (record.captioner, record.model, record.revision[:16])))) for record in records.values()}
    return "; ".join(sorted(makers))
