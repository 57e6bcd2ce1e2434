"""Every figure of a run, drawn from its files: training, probes, classes, what modulation did, maps, mistakes that move.

    RUNS/NAME/figures/loss.png terms.png                 losses over the steps, and each term
                     /accuracy.png confusion.png pairs.png   the probe beside its reference points; which class is taken for which
                     /classes.png                        J+M against J+B by class (AC-SAR figure 4)
                     /against_classes.png against_confusion.png   this run against another one: with and without modulation (figure 7)
                     /tsne.png                           captions before and after modulation, skeletons (figure 6)
                     /mistakes.png mistakes/N-KEY.gif .mp4   the surest mistakes
                     /figures.json                       what was drawn, what was left out and why, what it shows in words

What a run's files do not allow (no captions, not probed yet, one stream) is left out, with the reason.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from acsar.ac_sar import ACSARConfig
from acsar.scdnet import SCDNet
from acsar.skeleton import SKELETONS
from acsar.streams import LETTERS, STREAMS
from jobs import environment, features, figure_motion, journal, maps, weights
from jobs.batches import by_hash
from jobs.class_comparison import compare
from jobs.codec import encode
from jobs.drawn import RECORD, sources
from jobs.figure_classes import class_bars, confusable_pairs, confusion_pair
from jobs.figure_curves import Records, loss_curves, loss_terms
from jobs.figure_probe import accuracy_bars, confusion_matrix
from jobs.figure_style import save
from jobs.figure_tsne import tsne_figure
from jobs.fuse import fused, probed_setting, read_streams
from jobs.representations import represented
from jobs.run_folder import RunFolder, read_json, write_bytes, write_json
from jobs.scores import Scores, joined
from jobs.settings import Schedule
from jobs.targets import check_streams, find_run, finished, open_set, streams_in
from jobs.verdicts import reports
from shards import protocols
from shards.class_names import named
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.stream import PackedSet

Say = Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """Draw a run's figures into RUNS/NAME/figures, whatever of them its files allow."""

    run: Path  # RUNS/NAME (or NAME below --runs)
    against: Path | None = None  # another run on the same test clips, class by class: for AC-SAR that with --method.interaction none
    protocol: str = ""  # default: the one that the run was probed by
    schedule: Schedule = "official"  # of the linear probe
    stream: str = ""  # whose captions and skeletons are mapped; default: the first that has finished
    part: Literal["test", "train"] = "test"  # of the protocol: whose clips are mapped
    points: int = 12_000  # clips on a map, at most, chosen by their keys; 0 = no map (AC-SAR: 12 000)
    clusters: int = 0  # k of k-means on a map; 0 = the number of classes (AC-SAR: 60)
    mistakes: int = 6  # how many are animated; 0 = none
    seed: int = 0  # of the choice of points, t-SNE, k-means and intervals
    data: Path | None = None  # packed set, where it has moved
    runs: Path | None = None  # where a bare NAME is looked up; default $ACSAR_RUNS, else ./runs

    def __call__(self, say: Say = lambda line: None) -> list[Path]:
        """The files written. `say` is told what is drawn, left out and found.

        Raises InputError for no run, and for an --against that is none or was not probed on the same clips."""
        run = find_run(self.run, self.runs)
        against = find_run(self.against, self.runs) if self.against is not None else None
        drawing = _Drawing(self, run, against, say)
        folder = run / "figures"
        files: list[Path] = []
        drawn: dict[str, list[str]] = {}
        left_out = {}
        for name, draw in drawing.plan():
            drawn[name] = []
            try:
                made = draw()
            except InputError as error:
                if name == "against":
                    raise
                left_out[name] = str(error)
                say(f"{name}: left out: {error}")
                continue
            files += made
            drawn[name] = [path.relative_to(folder).as_posix() for path in made]
            say(f"{name}: {', '.join(drawn[name])}")
        for finding in drawing.findings:
            say(finding)
        record = {"job": encode(self), "drawn": self._forget(folder, drawn), "left_out": left_out, "findings": drawing.findings}
        write_json(folder / RECORD, {**record, "sources": sources(run, against)})
        return files

    def _forget(self, folder: Path, drawn: dict[str, list[str]]) -> dict[str, list[str]]:
        """What stands there now, by kind: files that an earlier call drew and this one did not are removed (mistakes that are none any
        more), kinds that were not asked for stay as they are."""
        earlier: dict[str, list[str]] = read_json(folder / RECORD)["drawn"] if (folder / RECORD).is_file() else {}
        for kind in drawn:
            for name in set(earlier.get(kind, [])) - set(drawn[kind]):
                (folder / name).unlink(missing_ok=True)
        return {**earlier, **drawn}


class _Drawing:
    """The figures of one run, each by a method that returns the files it wrote or raises InputError where it cannot be drawn."""

    def __init__(self, asked: Figures, run: Path, against: Path | None, say: Say) -> None:
        self.asked, self.run, self.against, self.say = asked, run, against, say
        self.folder = run / "figures"
        self.findings: list[str] = []

    def plan(self) -> list[tuple[str, Callable[[], list[Path]]]]:
        """(name, what draws it), in order."""
        steps = [("training", self.training), ("probe", self.probe), ("classes", self.classes)]
        steps += [("against", self.versus)] * (self.against is not None)
        steps += [("maps", self.tsne)] * (self.asked.points > 0)
        steps += [("mistakes", self.mistakes)] * (self.asked.mistakes > 0)
        return steps

    def training(self) -> list[Path]:
        journals: dict[str, Records] = {name: journal.read(self.run / name) for name in streams_in(self.run)}
        if not any(record["type"] == "step" for records in journals.values() for record in records):
            raise InputError(f"{self.run} has no journal of training steps")
        guesses = {name: _guesses(read_json(RunFolder(self.run / name).config)["job"]) for name in journals}
        return [
            save(loss_curves(journals), self.folder / "loss.png"),
            save(loss_terms(journals, guesses), self.folder / "terms.png"),
        ]

    def probe(self) -> list[Path]:
        path = self.run / "fuse" / f"{self.setting}.json"
        told = reports(self.run / "probe" / self.setting, list(self.streams))
        found = [
            save(accuracy_bars(told, read_json(path) if path.is_file() else None), self.folder / "accuracy.png"),
            save(confusion_matrix(self.streams), self.folder / "confusion.png"),
        ]
        return [*found, save(confusable_pairs(_fused(self.streams), self.title), self.folder / "pairs.png")]

    def classes(self) -> list[Path]:
        if len(self.streams) < len(STREAMS):
            raise InputError(f"{self.run} has probes of {', '.join(self.streams)}; J+M against J+B takes joint, bone and motion")
        jm, jb = (_fused({name: self.streams[name] for name in names}) for names in (("joint", "motion"), ("joint", "bone")))
        compared = compare(jm, jb, ("J+M", "J+B"), self.asked.seed)
        self.findings += compared.sentences()
        return [save(class_bars(compared), self.folder / "classes.png")]

    def versus(self) -> list[Path]:
        """This run and the other one by the streams that both have, fused."""
        assert self.against is not None
        theirs = read_streams(self.against, probed_setting(self.against, self.asked.protocol, self.asked.schedule))
        both = [name for name in self.streams if name in theirs]
        if not both:
            raise InputError(f"{self.run} and {self.against} have no probed stream in common; probe the same streams of both")
        titles = tuple(f"{_letters(both)}, {told}" for told in _told_apart(self.run, self.against))
        pair = {titles[0]: _fused({n: self.streams[n] for n in both}), titles[1]: _fused({n: theirs[n] for n in both})}
        own, other = joined(pair, "runs").values()
        compared = compare(own, other, (titles[0], titles[1]), self.asked.seed)
        self.findings += compared.sentences()
        pairs = confusable_pairs(other, titles[1], own, titles[0])
        return [
            save(class_bars(compared), self.folder / "against_classes.png"),
            save(confusion_pair(other, own, (titles[1], titles[0])), self.folder / "against_confusion.png"),
            save(pairs, self.folder / "against_pairs.png"),
        ]

    def tsne(self) -> list[Path]:
        stream = self._stream()
        folder, config = RunFolder(self.run / stream), finished(self.run, stream)
        facts = config["facts"]
        packed = self._set(facts["content_id"])
        spoken = isinstance(weights.config(folder.encoder), ACSARConfig) and folder.text.is_file()
        keys = self._keys(packed, facts["protocol"], spoken)
        sha = sha256_of(folder.encoder)
        spec = {
            "encoder": sha, "text": sha256_of(folder.text) if spoken else "", "content_id": packed.content_id, "stream": stream,
            "keys": features.fingerprint(keys), "clusters": self.asked.clusters, "settings": maps.settings(self.asked.seed),
        }  # fmt: skip
        classes = named(packed.manifest["classes"])
        labels = np.array([packed.samples[packed.index[key]].label for key in keys])
        clusters = self.asked.clusters or len(np.unique(labels))

        def make() -> list[maps.Cloud | None]:
            method = weights.load_whole(folder) if spoken else weights.load_encoder(folder.encoder)
            assert isinstance(method, SCDNet)
            device = environment.device()
            self.say(f"maps: {stream}, {len(keys)} clips of the {self.asked.part} part")
            found = represented(method.to(device), packed, keys, device, self._kept(packed, stream, sha, keys))
            return [maps.mapped(points, labels, clusters, self.asked.seed) for points in found]

        clouds = {cloud.name: cloud for cloud in maps.kept(self.folder / "tsne.npz", spec, make)}
        drawn = [cloud for cloud in clouds.values() if not cloud.control]
        if not drawn:
            raise InputError(f"{self.run}: fewer than {maps.FEWEST} clips of the {self.asked.part} part differ: too few for a map")
        said = maps.findings(clouds)
        self.findings += said
        self.findings += [] if spoken else [f"{stream}: no caption branch in {folder.path}: skeletons only are mapped"]
        who = f"{self.run.name}, {stream}: {len(keys)} clips of the {self.asked.part} part of {facts['protocol']}, {len(classes)} classes"
        marked = ["supervision=text-from-label: the captions tell the class."] if facts["supervision"] == "text-from-label" else []
        notes = [f"{who}. {' '.join(marked)}", *(f"{line}." for line in said[1:]), *maps.HOW_TO_READ, f"{spec['settings']}."]
        return [save(tsne_figure(drawn, labels, classes, said[0], notes), self.folder / "tsne.png")]

    def mistakes(self) -> list[Path]:
        first = next(iter(self.streams.values()))
        packed = self._set(first.facts["content_id"])
        layout = SKELETONS[packed.manifest["skeleton"]]
        found = figure_motion.mistakes(list(self.streams.values()), named(first.classes), self.asked.mistakes)
        if not found:
            raise InputError(f"{self.run}: {self.title} makes no mistake on {len(first.keys)} test clips")

        def clip(key: str) -> figure_motion.Clip | None:
            return packed.joints(packed.samples[packed.index[key]]).astype(np.float32) if key else None

        rows = [figure_motion.Row(mistake, np.asarray(clip(mistake.key)), clip(mistake.like)) for mistake in found]
        title = f"{self.run.name}, {self.title}: the surest mistake of each of its {len(rows)} surest confusions"
        write_bytes(self.folder / "mistakes.png", figure_motion.png(figure_motion.sheet(rows, layout, title)))
        files = [self.folder / "mistakes.png"]
        for i, row in enumerate(rows, 1):
            frames, path = figure_motion.animated(row, layout), self.folder / "mistakes" / f"{i}-{row.mistake.key}"
            files.append(figure_motion.write_gif(frames, path.with_name(f"{path.name}.gif")))
            if figure_motion.can_film():
                files.append(figure_motion.write_mp4(frames, path.with_name(f"{path.name}.mp4")))
        if not figure_motion.can_film():
            self.findings.append("mistakes: no MP4 without PyAV (pip install 'acsar-suite[caption]'); the GIFs show the same")
        return files

    @cached_property
    def setting(self) -> str:
        return probed_setting(self.run, self.asked.protocol, self.asked.schedule)

    @cached_property
    def streams(self) -> dict[str, Scores]:
        return read_streams(self.run, self.setting)

    @property
    def title(self) -> str:
        return _letters(list(self.streams))

    def _stream(self) -> str:
        check_streams([self.asked.stream] if self.asked.stream else [])
        done = [name for name in streams_in(self.run) if RunFolder(self.run / name).result.is_file()]
        if not self.asked.stream and not done:
            raise InputError(f"no stream of {self.run} has finished pretraining; give its pretrain command again")
        return self.asked.stream or done[0]

    def _set(self, content_id: str) -> PackedSet:
        config = read_json(RunFolder(self.run / streams_in(self.run)[0]).config)
        return open_set(self.asked.data or Path(config["job"]["data"]), content_id, self.run)

    def _keys(self, packed: PackedSet, protocol: str, spoken: bool) -> list[str]:
        """The clips of a map, in an order that depends on the seed and each key alone; with captions only those that have one."""
        train, test = protocols.parts(packed.samples, protocol, packed.manifest["benchmark"])
        keys = [key for key in (train if self.asked.part == "train" else test) if not spoken or packed.samples[packed.index[key]].text]
        return by_hash(keys, self.asked.seed)[: self.asked.points]

    def _kept(self, packed: PackedSet, stream: str, sha: str, keys: Sequence[str]) -> torch.Tensor | None:
        """The encoder's features of these clips, where probing has kept them."""
        path = features.place(self.run, packed.content_id, stream)
        if not path.is_file():
            return None
        try:
            return features.read(path, sha, packed.content_id).of(keys)
        except InputError:
            return None  # another encoder's, or not of all clips: they are encoded again


def _fused(streams: dict[str, Scores]) -> Scores:
    """Streams of one row order as one result."""
    return replace(next(iter(streams.values())), scores=fused(list(streams.values())))


def _letters(streams: Sequence[str]) -> str:
    return "+".join(LETTERS[name] for name in streams) + (" fused" if len(streams) > 1 else "")


def _told_apart(own: Path, other: Path) -> tuple[str, str]:
    """What two runs are called beside each other: by their interaction where that differs, else by name."""
    said = []
    for run in (own, other):
        method = read_json(RunFolder(run / streams_in(run)[0]).config)["job"].get("method", {})
        said.append(method.get("interaction", "no captions") if "c1" in method else "")
    if all(said) and said[0] != said[1]:
        words = {"none": "without modulation", "film": "with modulation", "no captions": "without captions"}
        return words.get(said[0], said[0]), words.get(said[1], said[1])
    return own.name, other.name


def _guesses(job: dict[str, Any]) -> dict[str, float]:
    """What each term of the loss is where all similarities are equal: ln(1 + queue), and for captions their weight times ln(batch)."""
    method = job.get("method", {})
    found = {term: math.log(1 + method["queue"]) for term in ("gs", "gt", "sg", "tg") if "queue" in method}
    if "weight" in method and "batch_size" in job:
        found["text"] = method["weight"] * math.log(job["batch_size"])
    return found
