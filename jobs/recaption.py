"""Captions that answer back: the worst of a run's captions are asked for again, and a new version of its packed set has the new ones.

OUT/agreement.json   what the run thinks of each training caption, and whether it uses captions at all
OUT/worst.html       the worst with their strips, old and new side by side
OUT/asked            the new captions (jobs/caption.py), of the worst clips only
OUT/captions.jsonl   all captions in their new version: give OUT to what takes a folder of captions
OUT/text             features of the captions that are new
OUT/packed           the new packed set: the same clips in the same order, other bytes for those captions only
OUT/report.json      what was done, written last
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jobs.agreement import Judgement, judge, protocol_of
from jobs.caption import Caption
from jobs.caption_pictures import Pictures
from jobs.caption_prompts import PROMPTS
from jobs.caption_record import CaptionRecord
from jobs.caption_sheet import Row, Said, write_sheet
from jobs.codec import encode
from jobs.compare_captions import records_of
from jobs.encode_text import EncodeText, weights_of
from jobs.pretrain import Pretrain
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.targets import find_run, open_set, streams_in, streams_of
from jobs.text import HashText, TextStore
from shards.errors import InputError
from shards.manifest import Caption as Packed
from shards.manifest import write_file
from shards.pack import TextFeatures
from shards.repack import caption_version, captions_in, repack
from shards.stream import PackedSet
from shards.workers import cores

REPORT, AGREEMENT, CAPTIONS, PAGE = "report.json", "agreement.json", "captions.jsonl", "worst.html"
SHOWN = 100  # clips on the page: the worst of the worst
ENCODER = re.compile(
    r"open_clip (?:(?P<model>\S+)/)?(?P<weights>\S+) (?P<activation>(?:quick)?gelu) (?P<level>word|sentence) (?P<precision>\S+) sha256:\w+"
)
SAME_AGAIN = ("motion", "import")  # captioners that say of a clip what they said before

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recaption:
    """List the captions that a run believes least, ask for them again, and pack the set with the new ones. Killed halfway, it goes on."""

    run: Path  # RUNS/NAME (or NAME below --runs), pretrained with captions
    worst: str = "5%"  # how many of the training captions: a share, or a number
    # folder of launch/caption.py that the run's set was packed with: says how strips were made, who was asked, and by which prompt
    captions: Path | None = None
    videos: Path | None = None  # folder of videos: for captioners that look at them, and for the strips on the page
    data: Path | None = None  # raw skeletons, for captioner motion
    captioner: str = ""  # who is asked; default: the one of --captions, by another prompt
    model: str = ""  # of that captioner, as in launch/caption.py; so are the next ones, as far as --device
    endpoint: str = ""
    published: Path | None = None  # captioner import: the file of published captions
    prompts: tuple[str, ...] = ()  # default: those in English that come after the one that was answered
    frames: Literal[3, 5, 8] = 5
    detector: str = "yolov5mu"
    boxes: Path | None = None
    max_tokens: int = 128
    tiles: int | None = None
    batch: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    text_weights: str = ""  # weight file of the text tower, where the set's features were made by a file and not by a named weight
    streams: tuple[str, ...] = ()  # that judge; default: all of the run
    packed: Path | None = None  # the run's packed set, where it has moved
    out: Path | None = None  # default: RUNS/NAME/captions-VERSION
    runs: Path | None = None  # folder of all runs; default: the run's own folder's, else $ACSAR_RUNS, else ./runs
    list_only: bool = False  # list the worst and stop: nobody is asked

    def __call__(self, say: Say = lambda line: None) -> dict[str, Any]:
        """Judge, list, ask, encode, pack; what was done, with `lines` for people.

        Raises InputError for what the user can mend, first of all for a run that does not use its captions."""
        run = find_run(self.run, self.runs).resolve()
        packed = self.set_of(run)
        version, out = caption_version(packed) + 1, self.folder(run, packed)
        if (out / REPORT).is_file() and not self.list_only:
            done: dict[str, Any] = read_json(out / REPORT)
            self._same(done["asked_for"], out)
            return {**done, "lines": [f"nothing to do: {out} has version {done['version']} of the captions", *done["lines"]]}
        scores, told = self.scores(run, packed, out)
        worst = sorted(scores, key=lambda key: (scores[key], key))[: count_of(self.worst, len(scores))]
        old = self.records(packed)
        pictures = Pictures.of(self.videos, packed.path)
        page = f"Captions that {run.name} believes least"
        about = [*told, f"{len(worst)} of {len(scores)} training captions, the worst first{_cut(worst)}; 0: any other caption fits as well"]
        rows = {key: pictures(old[key]) for key in worst[:SHOWN]}
        write_sheet(
            out / PAGE, page, about, [_title(version - 1)], [Row(k, s, (Said(old[k]),), _agreement(scores[k])) for k, s in rows.items()]
        )
        write_file(out / "keys.txt", [f"{key}\n".encode() for key in worst])
        lines = [*told, f"the worst {len(worst)} of {len(scores)}: {out / PAGE}"]
        if self.list_only:
            return {"out": str(out), "worst": worst, "scores": {key: scores[key] for key in worst}, "lines": lines}

        encoder = self.encoder(packed, out)
        asked = self.asked(worst, old, out, say)
        new = {key: record for key, record in asked.items() if record.usable and record.text != old[key].text}
        columns = [_title(version - 1), _title(version)]
        said = [Row(k, s, (Said(old[k]), _said(asked.get(k), old[k])), _agreement(scores[k])) for k, s in rows.items()]
        write_sheet(out / PAGE, page, about, columns, said)
        if not new:
            why = Counter(_unused(asked.get(key), old[key]) for key in worst)
            raise InputError(
                f"none of the {len(worst)} worst captions came back better ({_listed(why)}; see {out / PAGE}): ask another captioner with "
                "--captioner, or by other words with --prompts, and give another --out"
            )
        everything = {**old, **new}
        write_file(out / CAPTIONS, [json.dumps(everything[key].as_json()).encode() + b"\n" for key in sorted(everything)])
        captions = {key: Packed(record.text, record.provenance, record.texts) for key, record in new.items()}
        say(f"{len(new)} new captions: encoding and packing")
        report = repack(packed, out / "packed", captions, self.features(encoder, captions, out), jobs=cores())
        unused = Counter(_unused(asked.get(key), old[key]) for key in worst if key not in new)
        lines += [
            f"{len(new)} of {len(worst)} have a new caption" + (f"; the others keep theirs: {_listed(unused)}" if unused else ""),
            f"version {version} of the captions: {out / CAPTIONS}; packed: {report.out} (content {report.content_id[:12]})",
            f"next: {retrain(run, report.out, version)}",
        ]
        result = {
            "asked_for": self.asked_for(),
            "out": str(out),
            "packed": str(report.out),
            "content_id": report.content_id,
            "base": packed.content_id,
            "version": version,
            "worst": len(worst),
            "new": sorted(new),
            "unused": dict(unused),
            "lines": lines,
        }
        write_json(out / REPORT, result)
        return result

    def folder(self, run: Path, packed: PackedSet) -> Path:
        """OUT, with the default decided."""
        return (self.out or run / f"captions-{caption_version(packed) + 1}").resolve()

    def set_of(self, run: Path) -> PackedSet:
        """The run's packed set. InputError where another one lies there."""
        config = read_json(RunFolder(run / streams_in(run)[0]).config)
        return open_set(self.packed or Path(config["job"]["data"]), config["facts"]["content_id"], run)

    def scores(self, run: Path, packed: PackedSet, out: Path) -> tuple[dict[str, float], list[str]]:
        """Scores by training key and how much each stream relies on captions, in lines; kept in OUT, so that they are computed once."""
        names = list(self.streams) or list(streams_of(run))
        made_by = {name: read_json(RunFolder(run / name).result).get("encoder_sha256", "") for name in names if _ended(run / name)}
        path = out / AGREEMENT
        if path.is_file() and (kept := read_json(path))["encoders"] == made_by:
            return dict(kept["scores"]), list(kept["lines"])
        found: Judgement = judge(run, names, packed.path)
        lines = [reliance.words() + ("" if reliance.relies else ": not asked") for reliance in found.reliance]
        out.mkdir(parents=True, exist_ok=True)
        reliance = [asdict(one) for one in found.reliance]
        write_json(path, {"run": str(run), "encoders": made_by, "reliance": reliance, "lines": lines, "scores": found.scores})
        return found.scores, lines

    def records(self, packed: PackedSet) -> dict[str, CaptionRecord]:
        """What the set was packed with, by key: the records of --captions where they say the same, else the set's own words.

        InputError where --captions is not what the set was packed with."""
        there = {
            key: CaptionRecord(key, caption.text, caption.provenance, "", "", texts=caption.more)
            for key, caption in captions_in(packed).items()
        }
        if self.captions is None:
            return there
        known = records_of(self.captions)
        other = [key for key, record in there.items() if key in known and known[key].text != record.text]
        if not set(there) & set(known) or other:
            what = f"{other[0]} has another caption in it" if other else "it has none of its clips"
            raise InputError(f"--captions {self.captions} is not what {packed.path} was packed with: {what}")
        return {key: known.get(key, record) for key, record in there.items()}

    def asked(self, worst: Sequence[str], old: dict[str, CaptionRecord], out: Path, say: Say) -> dict[str, CaptionRecord]:
        """New records of the worst clips, by the caption stage: those that are there already are not asked for again.

        InputError where nobody else could be asked, or none of the clips can be shown."""
        who = Counter(old[key].captioner for key in worst).most_common(1)[0][0]
        captioner = self.captioner or who
        if not captioner:
            raise InputError("who wrote these captions is not known: name who is to be asked with --captioner, or give --captions DIR")
        if captioner == who and captioner in SAME_AGAIN:
            raise InputError(f"captioner {captioner} would say the same again: name another one with --captioner")
        job = self.caption(captioner, self.other_prompts(worst, old), out)
        can = set(job.chosen().keys)
        some = [key for key in worst if key in can]
        if not some:
            raise InputError(f"none of the {len(worst)} worst clips is among those that {captioner} can be asked about")
        path = out / "asked.txt"
        write_file(path, [f"{key}\n".encode() for key in sorted(some)])
        say(
            f"asking {captioner} about {len(some)} of {len(worst)} clips" + (f" by {', '.join(job.prompts)}" if job.sees == "strip" else "")
        )
        report = replace(job, keys=path)()
        for line in report["lines"]:
            say(line)
        return records_of(job.out)

    def caption(self, captioner: str, prompts: tuple[str, ...], out: Path) -> Caption:
        """The stage that asks again; captions that its gate flags are not taken, whatever their share."""
        return Caption(
            out=out / "asked",
            videos=self.videos,
            data=self.data,
            all=True,
            captioner=captioner,
            model=self.model,
            endpoint=self.endpoint,
            captions=self.published,
            prompts=prompts,
            frames=self.frames,
            detector=self.detector,
            boxes=self.boxes,
            batch=self.batch,
            max_tokens=self.max_tokens,
            tiles=self.tiles,
            precision=self.precision,
            device=self.device,
            gate="report",
        )

    def other_prompts(self, worst: Sequence[str], old: dict[str, CaptionRecord]) -> tuple[str, ...]:
        """--prompts, else the next two in English after the one that most of these captions answer."""
        if self.prompts:
            return self.prompts
        answered = Counter(old[key].prompt for key in worst).most_common(1)[0][0]
        return tuple(prompt.id for prompt in PROMPTS if prompt.language == "en" and prompt.id != answered)[:2]

    def encoder(self, packed: PackedSet, out: Path) -> EncodeText | None:
        """The stage that encodes new captions as the old ones were; None: the stand-in `hash`. InputError where that cannot be done here,
        before anybody is asked."""
        text = packed.manifest["text"]
        assert text is not None
        name = text["encoder"]
        if text.get("by") == "key":
            raise InputError(
                f"{packed.path} has the captioner's own features ({name}), which do not mix with others: caption the whole set again"
            )
        if name == HashText().encoder:
            return None
        said = ENCODER.fullmatch(name)
        if said is None:
            raise InputError(f"the captions of {packed.path} were encoded by {name!r}, which is no encoder of launch/encode_text.py")
        given: dict[str, Any] = {"model": said["model"]} if said["model"] else {}
        job = EncodeText(out / CAPTIONS, out / "text", pretrained=self.text_weights or said["weights"], **given)
        same: dict[str, Any] = {name: said[name] for name in ("level", "precision", "activation")}
        job = replace(job, **same, batch=64, device=self.device)
        if (found := weights_of(job).name(job)) != name:
            raise InputError(
                f"the captions of {packed.path} were encoded by {name}, these weights are {found}; name the right ones: --text-weights"
            )
        return job

    def features(self, job: EncodeText | None, captions: dict[str, Packed], out: Path) -> TextFeatures:
        """Features of the new captions alone."""
        if job is None:
            return HashText()
        new = out / "new.jsonl"
        lines = [json.dumps({"key": key, "text": list(caption.texts)}) for key, caption in sorted(captions.items())]
        write_file(new, ["\n".join(lines).encode() + b"\n"])
        replace(job, captions=new)()
        return TextStore.open(job.out)

    def asked_for(self) -> dict[str, Any]:
        """The fields that decide what comes out."""
        return {
            name: value for name, value in encode(self).items() if name not in ("batch", "device", "out", "runs", "list_only", "packed")
        }

    def _same(self, then: dict[str, Any], out: Path) -> None:
        now = self.asked_for()
        if differ := [name for name in sorted(now) if then.get(name) != now[name]]:
            told = ", ".join(f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in differ)
            raise InputError(f"{out} was made otherwise: {told}; give another --out")


def count_of(worst: str, captions: int) -> int:
    """How many captions --worst means: "5%" of them (at least one), or a number. InputError for anything else."""
    try:
        share = worst.endswith("%")
        number = float(worst[:-1]) / 100 * captions if share else int(worst)
        if not 0 < number <= captions:
            raise ValueError
    except ValueError:
        raise InputError(f"--worst {worst}: a share of the {captions} training captions such as 5%, or a number of them") from None
    return max(1, round(number))


def retrain(run: Path, packed: Path, version: int) -> str:
    """The command that pretrains on the new set what the run was: its configuration, in flags that differ from its recipe's."""
    job = read_json(RunFolder(run / streams_in(run)[0]).config)["job"]
    recipe = encode(Pretrain.of(job["recipe"], Path(job["data"]), job["name"]))
    flags = [*_flags(job, recipe, "")]
    data = f"--data {packed} --runs {job['runs']} --name {job['name']}-captions-{version} --recipe {job['recipe']}"
    return " ".join(["python launch/pretrain.py", data, f"--protocol {protocol_of(run)}", *flags])


def _flags(job: dict[str, Any], recipe: dict[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for name, value in job.items():
        if (not prefix and name in ("data", "runs", "name", "recipe", "protocol", "stop_after", "lr_rule")) or name in ("kind", "stream"):
            continue
        flag, usual = f"--{prefix}{name.replace('_', '-')}", recipe.get(name)
        if isinstance(value, dict):
            found += _flags(value, usual if isinstance(usual, dict) else {}, f"{prefix}{name.replace('_', '-')}.")
        elif value != usual and value is not None:
            if isinstance(value, bool):
                found.append(flag if value else f"--{prefix}no-{name.replace('_', '-')}")
            else:
                found.append(f"{flag} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return found


def _ended(stream: Path) -> bool:
    return RunFolder(stream).result.is_file()


def _said(record: CaptionRecord | None, old: CaptionRecord) -> Said | None:
    if record is None:
        return None
    taken = record.usable and record.text != old.text
    return Said(record, note="" if taken else f"not taken: {_unused(record, old)}")


def _unused(record: CaptionRecord | None, old: CaptionRecord) -> str:
    """Why a new caption is not taken."""
    if record is None:
        return "could not be asked about"
    if record.error or not record.text:
        return "no answer"
    return "the same words again" if record.text == old.text else ", ".join(record.flags)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {why}" for why, count in counts.most_common())


def _title(version: int) -> str:
    return f"version {version}"


def _agreement(score: float) -> str:
    return f"agreement {score:.3f}"


def _cut(worst: Sequence[str]) -> str:
    return f" (these are {SHOWN} of them)" if len(worst) > SHOWN else ""
