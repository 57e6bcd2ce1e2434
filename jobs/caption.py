"""Captions of a data set: slices of clips, each a job of its own, then all of them through the quality gate.

OUT/captions.jsonl   a record per clip (jobs/caption_record.py), once the gate has passed
OUT/report.json      what the gate found; OUT/refused.jsonl: the records that it did not let through
the rest of OUT      slices and attempts (jobs/caption_slices.py)
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs import assets
from jobs import caption_slices as slices
from jobs.caption_batch import Look, ahead, describe, npy
from jobs.caption_clips import Chosen, choose, known_keys
from jobs.caption_gate import Limits, Summary, verdict
from jobs.caption_prompts import DEFAULT, prompts
from jobs.caption_record import Ask, Captioner, CaptionRecord, VideoClip
from jobs.codec import encode
from jobs.run_folder import read_json, write_json
from shards.errors import InputError
from shards.manifest import sha256_of, write_file
from shards.ntu import is_ntu

GATHER = "gather"  # the part that comes after all slices
REPORT, REFUSED = "report.json", "refused.jsonl"
OWN = ("motion", "import", "endpoint")  # captioners that are no model on this machine; every other name is one
BATCHES = {"motion": 64, "import": 256, "endpoint": 32}  # clips at once where nobody says how many
MODEL_BATCH, GROUP = 8, 4  # strips that a model takes at once; batches that are asked together, so that strips of one shape meet
DEADLY = 2  # processes that died at a clip alone: it is not tried again

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Caption:
    """Caption the training part of a set. Killed halfway, the same job goes on; finished, it does nothing."""

    out: Path  # folder of the captions
    videos: Path | None = None  # folder of videos: NTU RGB+D, PKU-MMD with its label/ folder, or clips named by key
    data: Path | None = None  # packed set or raw skeletons: which clips there are and who trains; what `motion` looks at
    protocol: str = ""  # whose training part: split, xsub, xview, xset; default: the first that the data can serve
    all: bool = False  # the test clips too
    keys: Path | None = None  # only these clips: a file of keys, one a line
    # ovis2, deepseek-vl, another model's name (hub or folder), endpoint, motion, import; auto: by --captions, --endpoint, --videos, --data
    captioner: str = "auto"
    model: str = ""  # repository, folder, or (endpoint) the model's name there; default: the captioner's own
    endpoint: str = ""  # address of an OpenAI-compatible server, such as http://node7:8000/v1; its key: $ACSAR_ENDPOINT_KEY
    captions: Path | None = None  # published captions (import): .jsonl, .json or .csv by key, or a folder of captions
    prompts: tuple[str, ...] = DEFAULT  # ids (jobs/caption_prompts.py): what is asked, and what is asked where that was flagged
    frames: Literal[3, 5, 8] = 5  # of a clip, side by side in its strip
    height: int = 448  # of the strip in pixels
    # turn pictures left to right, so that left is left: Kinect's colour pictures are mirror images; auto: the videos of NTU RGB+D
    mirror: Literal["auto", "yes", "no"] = "auto"
    detector: str = "yolov5mu"  # of people: a name among the assets, or a file; none: whole frames
    boxes: Path | None = None  # people's boxes from a file instead: .jsonl with key, frame, boxes
    batch: int = 0  # clips at once; 0: what the captioner likes
    max_tokens: int = 128  # that a model may write
    tiles: int | None = None  # most tiles of a strip that a model sees: fewer are faster; default: the model's own
    hidden: bool = False  # also keep the model's own features of what it writes
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU
    device: str = "auto"  # cpu, cuda, cuda:1; auto: a GPU where there is one
    assets: Path | None = None  # folder of weights (launch/fetch_assets.py); default: $ACSAR_ASSETS, or ~/.cache/acsar
    slice: int = 500  # clips of a slice: what one job does between two loads of the model
    errors: Literal["keep", "again"] = "keep"  # again: clips without caption because of an error, a video since mended, are tried once more
    gate: Literal["fail", "report"] = "fail"  # report: captions worse than the limits are kept, and the report says so
    limits: Limits = field(default_factory=Limits)  # of the quality gate

    def __call__(self, part: str = "", progress: Progress | None = None, say: Callable[[str], None] | None = None) -> dict[str, Any]:
        """One slice by its name, GATHER (merge and gate), or everything; what came out, with `lines` for people.

        say: is told at the start which clips were chosen. Raises InputError for what the user can mend, such as a gate that does not let
        the captions through."""
        if part == GATHER:
            return self.gather()
        if part:
            plan = slices.read_plan(self.out)
            return Work(self, plan).slice(part, progress or _silent)
        plan, lines = self.plan()
        for line in lines:
            (say or _unsaid)(line)
        work, tell = Work(self, plan), progress or _silent
        before = plan.clips - sum(plan.size(name) for name in plan.unfinished)
        for name in plan.unfinished:
            work.slice(name, lambda count, _: tell(before + count, plan.clips))  # noqa: B023
            before += plan.size(name)
        return self.gather()

    @property
    def name(self) -> str:
        """The captioner's name, with `auto` decided."""
        if self.captioner != "auto":
            return self.captioner
        if self.captions is not None:
            return "import"
        if self.endpoint:
            return "endpoint"
        return "ovis2" if self.videos is not None else "motion"

    @property
    def sees(self) -> str:
        """What the captioner is shown."""
        return {"motion": "skeleton", "import": "nothing"}.get(self.name, "strip")

    @property
    def on_device(self) -> bool:
        """Whether a model runs here, so that a GPU is worth asking for."""
        return self.name not in OWN

    def mirrors(self, key: str) -> bool:
        """Whether the pictures of this clip are mirror images, which are turned before anybody looks at them.

        In NTU's .skeleton files the colour picture's x grows with the camera axes' x, which points to the sensor's left."""
        return self.mirror == "yes" or (self.mirror == "auto" and is_ntu(key))

    def check_weights(self) -> None:
        """InputError that lists all weights that this job needs and that are not there, one line each. Nothing is loaded."""
        wanted = {}
        if self.sees == "strip" and self.boxes is None and self.detector != "none":
            wanted["detector"] = self.detector
        if self.on_device:
            from jobs.caption_vlm import DEFAULTS

            wanted[f"captioner {self.name}"] = self.model or DEFAULTS.get(self.name, self.name)
        if self.assets is not None:
            os.environ[assets.VARIABLE] = str(self.assets)  # where everybody looks from here on
        try:
            assets.require(wanted)
        except InputError as error:
            without = "or leave them: --detector none takes whole frames, --captioner motion needs skeletons only"
            raise InputError(f"{error}\n  {without}") from None

    def plan(self) -> tuple[slices.Plan, list[str]]:
        """Write OUT/plan.jsonl, or find it; and what was chosen, in lines.

        InputError for another configuration in OUT, and for weights that are missing."""
        chosen = self.chosen()
        if not (self.out / slices.PLAN).is_file() or slices.read_plan(self.out).unfinished:
            self.check_weights()
        plan = slices.write_plan(self.out, self.configuration(), self.entries(chosen), self.slice)
        return plan, [*chosen.lines, *(self._errors_again(plan) if self.errors == "again" else ())]

    def _errors_again(self, plan: slices.Plan) -> list[str]:
        """Forget the records that say why there is no caption; how many, in a line."""
        count = 0
        for name in plan.names:
            records = slices.read_slice(self.out, name) if slices.is_finished(self.out, name) else slices.written(self.out, name).values()
            if keys := [record["key"] for record in records if record.get("error")]:
                (self.out / REPORT).unlink(missing_ok=True)  # first: it speaks of records that are no longer there
                slices.forget(self.out, name, keys)
                count += len(keys)
        return [f"{count} clips that had no caption are tried once more"]

    def chosen(self) -> Chosen:
        """The clips to caption. InputError for flags that do not go together, and for what `choose` refuses."""
        self._check()
        videos = others = None
        if self.sees == "strip":
            from jobs.caption_videos import find_clips

            assert self.videos is not None
            videos = find_clips(self.videos)
        elif self.captions is not None and self.name == "import":
            from jobs.caption_import import import_captioner, refuse_unknown

            published(self)
            others = import_captioner(self.captions).captions
            if self.data is not None:
                refuse_unknown(others, known_keys(self.data), self.captions, self.data)
        return choose(videos, others, self.data, self.videos or self.captions, self.protocol, self.all, self.keys)

    def entries(self, chosen: Chosen) -> list[dict[str, Any]]:
        """The plan's lines: key, and file (below the folder of videos) and frames where there is a video."""
        lines: list[dict[str, Any]] = []
        for key in chosen.keys:
            video = chosen.videos.get(key)
            cut = {"start": video.start, "stop": video.stop} if video and (video.start or video.stop is not None) else {}
            lines.append({"key": key, **({"video": os.path.relpath(video.path, self.videos), **cut} if video else {})})
        return lines

    def configuration(self) -> dict[str, Any]:
        """What decides how a caption comes out; all else may change between two calls."""
        told: dict[str, Any] = {"captioner": self.name, "multilingual": self.limits.multilingual, "clip_tokens": self.limits.max_tokens}
        if self.name == "import":
            return {**told, "captions": sha256_of(published(self))}
        if self.sees == "skeleton":
            return told
        boxes = {"boxes": sha256_of(_given(self.boxes, "--boxes"))} if self.boxes is not None else {"detector": self.detector}
        told |= {"model": self.model, "prompts": list(self.prompts), "frames": self.frames, "height": self.height, **boxes}
        told |= {"mirror": self.mirror, "max_tokens": self.max_tokens}
        if self.name == "endpoint":
            from jobs.caption_endpoint import address

            return {**told, "endpoint": address(self.endpoint)}  # refuses one with a password in it
        return {**told, "tiles": self.tiles, "hidden": self.hidden, "precision": self.precision}

    def gather(self) -> dict[str, Any]:
        """Merge the slices and ask the gate. InputError naming slices that are missing, and rates above the limits (`gate="fail"`)."""
        plan = slices.read_plan(self.out)
        if missing := plan.unfinished:
            told = f"{len(missing)} of {len(plan.names)} slices are not finished (first: {missing[0]})"
            raise InputError(f"{self.out}: {told}; the command that started it goes on with them")
        captions, refused = self.out / slices.CAPTIONS, self.out / REFUSED
        if (report := self._gathered()) is not None:
            return self._shown(report)
        captions.unlink(missing_ok=True)  # what an earlier call let through does not outlive a verdict against it
        summary = Summary.of(CaptionRecord.of(record, str(slices.final(self.out, name))) for name, record in _records(plan))
        judged = verdict(summary, self.limits)
        kept = captions if judged.passes or self.gate == "report" else refused
        write_file(kept, (json.dumps(record).encode() + b"\n" for _, record in _records(plan)))
        report = {
            "gate": self._gate(),
            "passed": judged.passes,
            "clips": plan.clips,
            "sha256": sha256_of(kept),
            "made_by": _makers(plan),
            "configuration": plan.configuration,
            "summary": summary.as_json(),
            "verdict": list(judged.lines),
        }
        write_json(self.out / REPORT, report)
        if kept is refused:
            failed = [line.removeprefix("FAILED ") for line in judged.lines if line.startswith("FAILED")]
            lacking = any(line.startswith("without caption") for line in failed)
            mend = "mend the cause and add --errors again" if lacking else "take another captioner or prompt and another --out"
            ways = f"{mend}, raise a limit (--limits.max-flagged, ...), or keep them with --gate report"
            raise InputError(f"the quality gate refuses these captions: {'; '.join(failed)}. They are in {refused}; {ways}")
        refused.unlink(missing_ok=True)
        return self._shown(report)

    def preview(self, count: int) -> dict[str, Any]:
        """Look at some clips, picked by a hash of their keys: a sheet of their strips, or what the captioner says where there are none."""
        chosen = self.chosen()
        keys = set(sorted(chosen.keys, key=lambda key: hashlib.sha256(key.encode(errors="surrogateescape")).digest())[:count])
        entries = [entry for entry in self.entries(chosen) if entry["key"] in keys]
        looks = list(map(Looks.of(self), entries))
        if self.sees == "strip":
            from jobs.caption_strip import contact_sheet

            path = self.out.with_name(f"{self.out.name}-preview.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            contact_sheet([(look.ask.key, look.ask.strip or look.error) for look in looks], path)
            without = sum(bool(look.error) for look in looks)
            lines = [f"{len(looks)} strips: {path}" + (f"; {without} of them cannot be made" if without else "")]
            return {"preview": str(path), "lines": [*chosen.lines, *lines]}
        told = describe(looks, captioner_of(self), (), _counter(), self.limits)
        lines = [f"{record.key}: {record.error or record.text}" for record, _ in told]
        return {"captions": {record.key: record.text for record, _ in told}, "lines": [*chosen.lines, *lines]}

    def _gate(self) -> dict[str, Any]:
        """What the report was made by: another gate, or another limit, makes it anew."""
        return {"gate": self.gate, "limits": encode(self.limits)}

    def _gathered(self) -> dict[str, Any] | None:
        """The report of this very gate, where the captions that it let through are there unchanged."""
        path, captions = self.out / REPORT, self.out / slices.CAPTIONS
        if not (path.is_file() and captions.is_file()):
            return None
        report: dict[str, Any] = read_json(path)
        through = report["passed"] or self.gate == "report"
        return report if through and report["gate"] == self._gate() and report["sha256"] == sha256_of(captions) else None

    def _shown(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report with its lines for people."""
        captions = self.out / slices.CAPTIONS
        worse = "" if report["passed"] else ", though they are WORSE THAN THE LIMITS (--gate report)"
        lines = [f"captions: {captions}{worse}", *report["verdict"], *_by(report["made_by"])]
        return {**report, "out": str(self.out), "captions": str(captions), "lines": lines}

    def _check(self) -> None:
        """Refuse numbers and flags that cannot be meant."""
        for name, least in {"slice": 1, "batch": 0, "height": 16, "max_tokens": 1}.items():
            value = getattr(self, name)
            if value < least:
                raise InputError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
        if self.sees == "strip":
            prompts(self.prompts)
            if self.videos is None:
                raise InputError(f"captioner {self.name} looks at videos: name their folder with --videos (motion needs skeletons only)")
        if self.name == "motion":
            if self.data is None:
                raise InputError("captioner motion looks at skeletons: name raw data with --data")
            if (self.data / "manifest.json").is_file():
                packed = f"--data {self.data} is a packed set, and motion looks at skeletons in metres"
                raise InputError(f"{packed}: name the raw data that it was packed from")
        if self.name == "import" and self.captions is None:
            raise InputError("captioner import reads published captions: name their file with --captions")
        if self.name == "endpoint" and not (self.endpoint and self.model):
            raise InputError("captioner endpoint needs --endpoint URL and --model NAME, the model's name there")
        if self.hidden and not self.on_device:
            raise InputError(f"--hidden: captioner {self.name} has no features of its own; take a model that runs here, such as ovis2")


@dataclass(frozen=True)
class Looks:
    """From a line of the plan to what the captioner is shown of that clip."""

    see: Callable[[VideoClip | str], Ask]
    root: Path | None = None
    detector: str = ""

    @classmethod
    def of(cls, job: Caption) -> "Looks":
        """What this job's captioner wants to see. InputError where a detector or the data cannot be had."""
        if job.sees == "skeleton":
            from shards.sources import open_source

            assert job.data is not None
            source = open_source(job.data)
            return cls(lambda clip: Ask(str(clip), skeleton=source.read(str(clip))))
        if job.sees == "nothing":
            return cls(lambda clip: Ask(str(clip)))
        from jobs.caption_strip import make_strip

        detector = detector_of(job)

        def see(clip: VideoClip | str) -> Ask:
            assert isinstance(clip, VideoClip)
            return Ask(clip.key, strip=make_strip(clip, job.frames, detector, job.height, job.mirrors(clip.key)))

        return cls(see, job.videos, detector.name)

    def __call__(self, entry: Mapping[str, Any]) -> Look:
        """Look at one clip; what is wrong with it becomes its `error`."""
        key, video = str(entry["key"]), str(entry.get("video", ""))
        clip = VideoClip(key, self.root / video, int(entry.get("start", 0)), entry.get("stop")) if self.root and video else key
        try:
            return Look(self.see(clip), video=video, detector=self.detector)
        except InputError as error:
            return Look(Ask(key), f"{error.reason or 'unusable'}: {error}", video, self.detector)


@dataclass
class Work:
    """One process's work on slices: the captioner is loaded when the first clip needs it, once."""

    job: Caption
    plan: slices.Plan
    captioner: Captioner | None = None
    looks: Looks | None = None
    load_s: float = 0.0

    def slice(self, name: str, progress: Progress) -> dict[str, Any]:
        """Caption what is missing of a slice, and finish it; how many clips it has, and how long what took.

        Raises InputError when another process has taken the slice over, or the captioner can answer nothing at all."""
        out, entries = self.job.out, slices.clips_of(self.plan, name)
        if slices.is_finished(out, name):
            return {"slice": name, "clips": len(entries), "asked": 0}
        attempt = slices.Attempt.begin(out, name, tag=os.environ.get("ACSAR_TAG", ""))
        began = time.perf_counter()
        try:
            todo = [entry for entry in entries if entry["key"] not in attempt.known]
            progress(len(entries) - len(todo), len(entries))
            for records in self._batches(attempt, todo):
                if slices.is_finished(out, name):  # by an older attempt that had them all
                    break
                attempt.append(records)
                progress(len(attempt.known), len(entries))
            if not slices.is_finished(out, name):
                attempt.finish([entry["key"] for entry in entries])
        except (InputError, KeyboardInterrupt) as error:
            attempt.leave(str(error) or type(error).__name__)
            raise
        finally:
            attempt.close()
        seconds = round(time.perf_counter() - began, 3)
        return {"slice": name, "clips": len(entries), "asked": len(todo), "load_s": round(self.load_s, 3), "seconds": seconds}

    def _batches(self, attempt: slices.Attempt, todo: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Records of the clips that are still to be asked about, batch by batch.

        Where the attempt before died in its first batch (a video that crashes the decoder, say), the next two batches are done clip by
        clip, so that it is seen at which one; a clip that was alone when processes died is not tried for ever."""
        if not todo:
            return
        self._load()
        assert self.looks is not None
        see, size = self.looks, batch_of(self.job) * (GROUP if self.job.sees == "strip" else 1)
        deaths = slices.Deaths.before(attempt)
        deadly = [entry for entry in todo if deaths.alone[entry["key"]] >= DEADLY]
        left = [entry for entry in todo if entry not in deadly]
        if deadly:
            died = f"crash: {DEADLY} processes died while they worked at this clip alone"
            yield self._described([Look(Ask(entry["key"]), died, str(entry.get("video", ""))) for entry in deadly], attempt)
        alone = left[: 2 * size] if deaths.careful else []
        for entry in alone:
            attempt.at(entry["key"], alone=True)
            yield self._described([see(entry)], attempt)
        batches = [left[at : at + size] for at in range(len(alone), len(left), size)]
        if batches:
            attempt.at(batches[0][0]["key"], alone=False)
        for looks in ahead(batches, lambda batch: [see(entry) for entry in batch]):
            yield self._described(looks, attempt)

    def _described(self, looks: Sequence[Look], attempt: slices.Attempt) -> list[dict[str, Any]]:
        """Records of these clips; the captioner's own features of them are on the disk, where they are wanted."""
        job, records = self.job, []
        assert self.captioner is not None
        wanted = prompts(job.prompts) if job.sees == "strip" else ()
        for record, hidden in describe(looks, self.captioner, wanted, _counter(), job.limits):
            if hidden is not None and job.hidden:
                path = slices.hidden_path(job.out, attempt.name, record.key)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, [npy(hidden)])
            records.append(record.as_json())
        return records

    def _load(self) -> None:
        if self.captioner is None:
            began = time.perf_counter()
            self.job.check_weights()
            self.captioner, self.looks = captioner_of(self.job), Looks.of(self.job)
            self.load_s = time.perf_counter() - began


def captioner_of(job: Caption) -> Captioner:
    """The captioner that the job names, loaded. InputError naming everything that it lacks."""
    if job.name == "motion":
        from jobs.caption_motion import motion_captioner

        return motion_captioner()
    if job.name == "import":
        from jobs.caption_import import import_captioner

        published(job)
        assert job.captions is not None
        return import_captioner(job.captions)
    if job.name == "endpoint":
        from jobs.caption_endpoint import endpoint_captioner

        return endpoint_captioner(job.endpoint, job.model, max_tokens=job.max_tokens, concurrency=batch_of(job))
    from jobs.caption_vlm import transformers_captioner

    return transformers_captioner(
        job.name,
        job.model,
        device=job.device,
        precision=job.precision,
        max_tokens=job.max_tokens,
        tiles=job.tiles,
        batch=batch_of(job),
        hidden=job.hidden,
    )


def detector_of(job: Caption) -> Any:
    """Who finds people: boxes from a file, nobody, or a network. InputError naming what is missing."""
    from jobs import caption_people as people

    if job.boxes is not None:
        return people.injected(_given(job.boxes, "--boxes"))
    if job.detector == "none":
        return people.whole()
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if job.device == "auto" else job.device
    return people.yolo(job.detector, device)


def published(job: Caption) -> Path:
    """The file of published captions, also where its folder is named. InputError where there is none."""
    path = job.captions
    return _given(path / slices.CAPTIONS if path is not None and path.is_dir() else path, "--captions")


def batch_of(job: Caption) -> int:
    """Clips at once."""
    return job.batch or BATCHES.get(job.name, MODEL_BATCH)


def _counter() -> Callable[[str], int]:
    from jobs.encode_text import count_tokens

    return count_tokens


def _records(plan: slices.Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """(slice, record) of every clip in the plan's order."""
    for name in plan.names:
        yield from ((name, record) for record in slices.read_slice(plan.out, name))


def _makers(plan: slices.Plan) -> dict[str, int]:
    """Clips by who described them: one, unless a model changed under the captioner's feet."""
    made: dict[str, int] = {}
    for _, record in _records(plan):
        who = " ".join(str(record.get(name, "")) for name in ("captioner", "model", "revision") if record.get(name))
        made[who] = made.get(who, 0) + 1
    return made


def _by(made: Mapping[str, int]) -> list[str]:
    if len(made) == 1:
        return [f"by {next(iter(made))}"]
    return [f"by DIFFERENT captioners: {', '.join(f'{who} ({count})' for who, count in made.items())}"]


def _given(path: Path | None, flag: str) -> Path:
    """The file that a flag names. InputError where there is none."""
    if path is None or not path.is_file():
        raise InputError(f"{flag} {path}: no such file")
    return path


def _silent(done: int, total: int) -> None: ...


def _unsaid(line: str) -> None: ...
