"""Figures: what they show is what the files say; drawn without a screen and without global state; what cannot be drawn says why."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from acsar.ac_sar import ACSAR
from acsar.scdnet import SCDNet
from acsar.skeleton import NTU25, UCLA20
from jobs import drawn, figure_motion, figure_probe, figure_style, maps, replay, weights
from jobs.codec import encode
from jobs.figure_curves import loss_curves, loss_terms, smooth, thinned
from jobs.figure_motion import Mistake, Row, View, animated, mistakes, sheet, write_gif, write_mp4
from jobs.figure_probe import accuracy_bars, confusion_matrix
from jobs.figure_style import save
from jobs.figure_tsne import tsne_figure
from jobs.figures import Figures
from jobs.pretrain import Pretrain
from jobs.representations import AFTER, BEFORE, EXCHANGED, SKELETONS, Points, represented
from jobs.run_folder import RunFolder, write_json
from jobs.scores import Scores, write_scores
from launch import figures as script
from shards import protocols
from shards.errors import InputError
from shards.manifest import Caption, sha256_of
from shards.pack import pack
from shards.stream import PackedSet
from tests import runs_example
from tests.believers import CONFIG, trained_run
from tests.moves import Moves, finished_run, packed_moves
from tests.words import Words

ACCURACIES = ("linear", "knn1", "random_linear", "random_knn1", "raw_linear", "raw_knn1")


def records(first: float, evals: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"type": "step", "step": i + 1, "loss": first * math.exp(-i / 50), "losses": {"gs": first, "text": first / 2}} for i in range(100)
    ]
    return found + [{"type": "eval", "step": 50, "metrics": {"held_aside_knn1": 40.0, "text_reliance_share": None}}] * evals


def report(**changes: Any) -> dict[str, Any]:
    numbers = {name: 50.0 + 2 * i for i, name in enumerate(ACCURACIES)}
    spans = {name: [value - 3, value + 3] for name, value in numbers.items()}
    words = {"chance": 5.0, "test": 100, "classes": 20, "interval_over": "subjects", "test_subjects": 8}
    words |= {"transductive": False, "supervision": "none"}
    return {**numbers, "intervals": spans, **words, **changes}


def scores(count: int = 3, wrong: int = 1) -> Scores:
    labels = torch.arange(4 * count) % count
    table = torch.nn.functional.one_hot(labels, count).float() * 5
    table[:wrong] = table[:wrong].roll(1, 1)
    return Scores([f"k{i}" for i in range(len(labels))], table, labels, labels, tuple(f"class {i}" for i in range(count)), {})


def probed(run: Path, packed: PackedSet, streams: tuple[str, ...] = ("joint", "bone", "motion"), wrong: int = 3) -> None:
    """What probing leaves of a run for its figures: reports, and scores that take `wrong` clips, other ones in each stream, for the next
    class; the same mistakes in all of them for the first clip."""
    _, test = protocols.parts(packed.samples, "split", packed.manifest["benchmark"])
    entries = [packed.samples[packed.index[key]] for key in test]
    labels, classes = torch.tensor([entry.label for entry in entries]), tuple(packed.manifest["classes"])
    for i, stream in enumerate(streams):
        table = torch.nn.functional.one_hot(labels, len(classes)).float() * (3 + i)
        for row in [0, *range(i * wrong, (i + 1) * wrong)]:
            table[row] = table[row].roll(1)
        facts = {"content_id": packed.content_id, "protocol": "split", "encoder": sha256_of(RunFolder(run / stream).encoder)}
        subjects = torch.tensor([entry.subject for entry in entries])
        write_scores(run / "probe" / "split" / f"{stream}.scores.npz", Scores(test, table, labels, subjects, classes, facts))
        write_json(run / "probe" / "split" / f"{stream}.json", report(test=len(test), classes=len(classes)))


def texts(axis: Any) -> str:
    return "\n".join([axis.get_title(loc="left"), *(text.get_text() for text in axis.texts)])


def test_loss_curves_show_every_stream() -> None:
    figure = loss_curves({"joint": records(20.0), "motion": records(10.0)})
    left, right = figure.axes
    assert [line.get_label() for line in left.get_lines() if not str(line.get_label()).startswith("_")] == ["joint", "motion"]
    assert np.allclose(np.asarray(left.get_lines()[0].get_ydata()), [r["loss"] for r in records(20.0)[:100]])
    assert np.asarray(right.get_lines()[0].get_ydata())[-1] == 40.0 and "joint 40" in right.get_title(loc="left")
    assert len(loss_curves({"joint": records(20.0, evals=False)}).axes) == 1


def test_each_term_has_a_panel_with_the_loss_of_guessing() -> None:
    figure = loss_terms({"joint": records(20.0), "bone": records(10.0)}, {"joint": {"gs": 4.86}})
    gs, text, knn = (axis for axis in figure.axes if axis.get_title(loc="left"))
    assert "at last 20.00, 10.00" in gs.get_title(loc="left") and "captions" in text.get_title(loc="left")
    assert [np.asarray(line.get_ydata())[0] for line in gs.get_lines()] == [20.0, 4.86, 10.0]
    assert "held-aside" in knn.get_title(loc="left")  # text_reliance was never a number: no panel


def test_smoothing_keeps_length_level_and_ends() -> None:
    assert np.allclose(smooth(np.full(90, 3.0)), 3.0)
    assert smooth(np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(smooth(np.arange(90.0))[30:60], np.arange(30.0, 60.0))
    x, y = thinned(np.arange(5001), np.arange(5001), 1000)
    assert len(x) <= 1001 and x[-1] == y[-1] == 5000


def test_bars_are_as_high_as_the_numbers() -> None:
    fusion = {"streams": ["joint", "bone"], "top1": 77.0, "intervals": {"top1": [70.0, 80.0]}}
    [axis] = accuracy_bars({"joint": report(), "bone": report(linear=66.6)}, fusion).axes
    heights = [round(bar.get_height(), 1) for bar in axis.patches]  # type: ignore[attr-defined]
    assert heights == [50.0, 54.0, 58.0, 66.6, 54.0, 58.0, 77.0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["joint", "bone", "J+B\nfused"]
    assert "66.6" in texts(axis) and "chance 5.0 %" in texts(axis) and "8 test subjects" in texts(axis)


def test_bars_carry_the_tags_that_make_numbers_incomparable() -> None:
    [axis] = accuracy_bars({"joint": report(transductive=True, supervision="text-from-label", interval_over="samples")}).axes
    assert all(words in texts(axis) for words in ("transductive", "supervision=text-from-label", "over test clips"))


def test_the_title_of_the_bars_says_what_beats_what() -> None:
    beats, level = ({"linear_over_random": {"interval": [low, 9.0]}, "linear_over_raw": {"interval": [-3.0, 2.0]}} for low in (1.0, -1.0))
    [axis] = accuracy_bars({"joint": report(differences=beats), "bone": report(differences=level)}).axes
    assert "beats its random encoder in joint; the raw clips in no stream" in texts(axis)


def test_confusions_are_shares_of_the_true_class() -> None:
    axis, _ = confusion_matrix({"joint": scores()}).axes
    assert np.asarray(axis.images[0].get_array()).tolist() == [[75.0, 25.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 100.0]]
    assert "J: 91.7 % of 12 test clips right" in texts(axis) and "class 0 for class 1 (25 %)" in texts(axis)


def test_many_classes_are_numbered_not_named(tmp_path: Path) -> None:
    many = confusion_matrix({"joint": scores(60), "bone": scores(60)})
    assert not many.axes[0].texts and "J+B fused" in texts(many.axes[0])
    assert save(many, tmp_path / "many.png").stat().st_size > 3_000


def blobs(n: int = 90) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int64]]]:
    rng, labels = np.random.default_rng(0), np.arange(n) % 3
    return (np.eye(3, 12)[labels] + 0.05 * rng.normal(size=(n, 12))).astype(np.float32), labels


def test_a_map_keeps_groups_together_and_is_a_function_of_its_seed() -> None:
    features, labels = blobs()
    cloud = maps.mapped(Points("blobs", features, np.arange(90)), labels, 3, seed=1)
    assert cloud is not None and cloud.agreement == pytest.approx(1.0) and cloud.distinct == 90
    distance = np.linalg.norm(cloud.place[:, None] - cloud.place[None], axis=2) + np.eye(90) * 1e9
    assert (labels[distance.argmin(1)] == labels).all()
    again = maps.mapped(Points("blobs", features, np.arange(90)), labels, 3, seed=1)
    assert again is not None and np.array_equal(cloud.place, again.place) and np.array_equal(cloud.cluster, again.cluster)


def test_equal_captions_lie_together_and_count_by_their_number() -> None:
    features, labels = blobs(30)
    member = np.arange(300) % 30
    cloud = maps.mapped(Points("captions", features[member], member), labels[member], 3, seed=0)
    assert cloud is not None and cloud.distinct == 30 and len(np.unique(cloud.place, axis=0)) == 300
    one = cloud.place[member == 4]
    assert np.ptp(one, axis=0).max() < 0.2 * np.ptp(cloud.place, axis=0).max()
    assert len(np.unique(cloud.cluster[member == 4])) == 1
    assert maps.mapped(Points("few", features[:7], np.arange(7)), labels[:7], 3, seed=0) is None


def test_maps_are_kept_as_long_as_they_are_of_the_same_things(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> list[maps.Cloud | None]:
        made.append(1)
        return [None, maps.Cloud("a", np.ones((4, 2), np.float32), np.arange(4), 0.5, 4, control=True)]

    path = tmp_path / "tsne.npz"
    for spec, times in (({"encoder": "1"}, 1), ({"encoder": "1"}, 1), ({"encoder": "2"}, 2)):
        [cloud] = maps.kept(path, spec, make)
        assert len(made) == times and cloud.control and cloud.cluster.tolist() == [0, 1, 2, 3]
    path.write_bytes(b"damaged")
    assert maps.kept(path, {"encoder": "2"}, make)[0].agreement == 0.5 and len(made) == 3


def test_the_figure_of_maps_says_what_it_shows() -> None:
    cloud = maps.Cloud(BEFORE, np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), np.arange(40) % 5, 0.14, 11)
    clouds = {BEFORE: cloud, AFTER: maps.Cloud(AFTER, cloud.place, cloud.cluster, 0.3, 40)}
    clouds[EXCHANGED] = maps.Cloud(EXCHANGED, cloud.place, cloud.cluster, 0.28, 40, control=True)
    said = maps.findings(clouds)
    assert "0.14 before modulation, 0.30 after, 0.28 after with captions exchanged" in said[0]
    figure = tsne_figure([clouds[BEFORE], clouds[AFTER]], np.arange(40) % 4, ["walk", "run", "sit", "jump"], said[0], maps.HOW_TO_READ)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert "captions before modulation (11 distinct): k-means, k = 5" in titles and "agree with classes by 0.30" in titles[3]
    words = "\n".join(text.get_text() for text in figure.texts)
    assert "2 sit" in words and "distances between groups" in words and said[0] in words.replace("\n", " ")


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a few pixels: what they show is asked of the figures themselves."""
    monkeypatch.setattr(figure_style, "DOTS", 40)
    monkeypatch.setattr(maps, "STEPS", 400)


@pytest.fixture(scope="module")
def believer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackedSet]:
    """A run with a caption branch: RUNS/believes with its joint stream, and its set of 48 clips with 20 captions."""
    folder, source = tmp_path_factory.mktemp("believer"), Moves()
    captions = {sample.key: Caption(f"caption number {i % 20}", "import") for i, sample in enumerate(source.samples())}
    pack(source, folder / "packed", captions=captions, features=Words())
    packed = PackedSet.open(folder / "packed")
    job = Pretrain.of("acsar-small", packed.path, "believes", method=CONFIG, batch_size=8, steps=1, runs=folder, streams=("joint",))
    return trained_run(job, packed), packed


def test_a_run_with_captions_is_mapped_before_and_after_modulation(believer: tuple[Path, PackedSet]) -> None:
    run, _ = believer
    [path] = Figures(run=run, mistakes=0)()
    assert path == run / "figures" / "tsne.png" and path.read_bytes().startswith(b"\x89PNG")
    record = drawn.read_record(run)
    assert sorted(record["left_out"]) == ["classes", "probe", "training"] and "has not been probed" in record["left_out"]["probe"]
    assert "before modulation" in record["findings"][0] and "with captions exchanged" in record["findings"][0]


def test_what_is_mapped_is_what_the_contrast_sees(believer: tuple[Path, PackedSet]) -> None:
    run, packed = believer
    method, keys = weights.load_whole(RunFolder(run / "joint")), [entry.key for entry in packed.samples[:30]]
    cpu, rows = torch.device("cpu"), packed.load(keys)
    joints, frames = torch.from_numpy(rows.joints), torch.from_numpy(rows.frames)
    found = {points.name: points for points in represented(method, packed, keys, cpu)}
    assert list(found) == [BEFORE, AFTER, SKELETONS, EXCHANGED] and found[EXCHANGED].control
    kept = {points.name: points for points in represented(method, packed, keys, cpu, method.encode(joints, frames))}
    assert all(np.allclose(found[name].features, kept[name].features, atol=1e-5) for name in found)
    assert all(np.allclose(np.linalg.norm(points.features, axis=1), 1, atol=1e-5) for points in found.values())
    with torch.no_grad():
        z, text = method.project(joints, frames)["g"], torch.from_numpy(np.asarray(rows.text)).float()
        after = torch.nn.functional.normalize(method.text(text, z), dim=1)
    assert np.allclose(found[AFTER].features, after.numpy(), atol=1e-5)
    assert np.array_equal(found[BEFORE].same, np.asarray(rows.text_id))
    assert np.abs(found[EXCHANGED].features - found[AFTER].features).max(1).min() > 1e-6  # everybody got another caption


def test_without_modulation_there_is_no_after(believer: tuple[Path, PackedSet]) -> None:
    _, packed = believer
    import acsar
    from acsar.ac_sar import ACSARConfig

    config = ACSARConfig(c1=8, width=16, heads=2, out=16, queue=16, interaction="none")
    plain = acsar.build(config, packed.manifest["skeleton"], packed.text_shape or (0, 0))
    assert isinstance(plain, ACSAR)
    keys = [entry.key for entry in packed.samples[:8]]
    assert [points.name for points in represented(plain.eval(), packed, keys, torch.device("cpu"))] == [BEFORE, SKELETONS]
    assert isinstance(plain, SCDNet)


def test_the_surest_mistake_of_each_confusion() -> None:
    first = scores(3, wrong=0)
    table = first.scores.clone()
    for row, taken, value in ((0, 1, 9.0), (3, 1, 7.0), (4, 2, 8.0), (5, 0, 1.0)):
        table[row] = torch.zeros(3)
        table[row, taken] = value
    found = mistakes([Scores(first.keys, table, first.labels, first.subjects, first.classes, {})], ["a", "b", "c"], 2)
    assert [(m.key, m.true, m.taken) for m in found] == [("k0", "a", "b"), ("k4", "b", "c")]  # k3 is the pair of k0 again
    share = torch.softmax(table, 1)
    assert found[0].taken_probability == pytest.approx(float(share[0, 1])) and found[0].true_probability == pytest.approx(
        float(share[0, 0])
    )
    assert found[0].like == "k1" and found[0].like_probability == pytest.approx(float(share[1, 1]))
    assert mistakes([scores(3, wrong=0)], ["a", "b", "c"], 2) == []


def body(layout: Any, people: int, frames: int) -> figure_motion.Clip:
    """[3,T,V,M]: people that stand side by side and lift their right wrist; up is y, the left is at smaller x."""
    clip = np.zeros((3, frames, layout.size, people), np.float32)
    for v, name in enumerate(layout.joints):
        side = -1 if "Left" in name else 1 if "Right" in name else 0
        high = {"Head": 1.6, "Knee": 0.5, "Ankle": 0.1, "Foot": 0.0, "Hip": 0.9, "Wrist": 0.8, "Hand": 0.7}
        level = next((y for part, y in high.items() if name.startswith(part)), 1.3 if "Shoulder" in name or name == "Neck" else 1.0)
        for m in range(people):
            clip[0, :, v, m], clip[1, :, v, m] = 0.2 * side + 1.2 * m, level
    wrist = layout.joints.index("WristRight")
    clip[1, :, wrist] += np.linspace(0, 0.9, frames)[:, None]
    return clip


def ink(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Where that colour is, [n,2] row and column."""
    return np.argwhere((np.abs(np.asarray(picture).astype(int) - colour) < 12).all(2))


@pytest.mark.parametrize("layout", [NTU25, UCLA20])
def test_bodies_are_drawn_head_up_and_absent_people_are_not(layout: Any) -> None:
    two = body(layout, 2, 5)
    two[:, 3:, :, 1] = 0  # the second one leaves
    view = View(two, layout)
    there, gone = view.frame(0), view.frame(4)
    first, second = figure_motion.COLOURS[:2]
    assert len(ink(there, second)) > 50 and len(ink(gone, second)) == 0 and len(ink(gone, first)) > 50
    rows = ink(gone, first)[:, 0]
    head = ink(gone, first)[rows < np.quantile(rows, 0.15)]
    foot = ink(gone, first)[rows > np.quantile(rows, 0.85)]
    assert len(head) and np.ptp(head[:, 1]) > 8 and head[:, 0].mean() < foot[:, 0].mean()
    assert np.asarray(view.frame(0)).tolist() != np.asarray(view.frame(2)).tolist()
    assert np.array_equal(np.asarray(view.frame(9)), np.asarray(gone))  # after the last frame it stays


def test_a_mistake_moves_as_gif_and_as_mp4(tmp_path: Path) -> None:
    told = Mistake("k1", "wave", "a class with a name that is far too long for its place", 0.9, 0.05, "k2", 0.8)
    frames = animated(Row(told, body(NTU25, 1, 9), body(NTU25, 2, 13)), NTU25)
    assert len(frames) == 13 and frames[0].size == (600, 366)
    with Image.open(write_gif(frames, tmp_path / "a.gif")) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (7, (600, 366), 0)
    with av.open(str(write_mp4(frames, tmp_path / "a.mp4"))) as film:
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 30
    assert len(decoded) == 13 and np.abs(decoded[5].astype(int) - np.asarray(frames[5]).astype(int)).mean() < 6
    alone = animated(Row(told, body(NTU25, 1, 3), None), NTU25)
    assert len(alone) == 3
    page = sheet([Row(told, body(NTU25, 1, 9), body(NTU25, 2, 13)), Row(told, body(NTU25, 1, 3), None)], NTU25, "mistakes")
    assert Image.open(io.BytesIO(figure_motion.png(page))).size == page.size


def test_every_figure_of_a_probed_run_and_why_others_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = packed_moves(tmp_path / "packed")
    runs = tmp_path / "runs"
    run, other = (finished_run(runs / name, packed, ["joint", "bone", "motion"], seed=seed) for name, seed in (("run", 5), ("other", 6)))
    for stream in ("joint", "bone"):
        runs_example.begin(run / stream, 1, "", 60)
        runs_example.training(run / stream, 1, 60)
    probed(run, packed)
    probed(other, packed, ("joint",), wrong=5)
    job = Figures(run=run, against=other, mistakes=2, points=20)
    paths = job()
    names = [path.relative_to(run / "figures").as_posix() for path in paths]
    assert names[:6] == ["loss.png", "terms.png", "accuracy.png", "confusion.png", "pairs.png", "classes.png"]
    assert names[6:11] == ["against_classes.png", "against_confusion.png", "against_pairs.png", "tsne.png", "mistakes.png"]
    clips = [name for name in names if name.startswith("mistakes/")]
    assert {Path(name).suffix for name in clips} == {".gif", ".mp4"} and all(path.stat().st_size > 1000 for path in paths)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths if path.suffix == ".png")
    record = drawn.read_record(run)
    assert record["left_out"] == {} and any("no caption branch" in line for line in record["findings"])
    assert any(line.startswith("J, run 77.1") or "J, other" in line for line in record["findings"])

    part = replay.comparison_part(run, [], {})
    assert set(names) == {name.removeprefix("figures/") for name in part.artifacts}

    description = encode(job)
    assert drawn.up_to_date(description) and not drawn.up_to_date({**description, "mistakes": 3})
    write_json(run / "probe" / "split" / "joint.json", report(test=1))
    assert not drawn.up_to_date(description)

    assert script.main(["--run", str(run), "--mistakes", "1", "--points", "0", "--cluster", "local", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["drawn"]["mistakes"]) == 3 and said["left_out"] == {}
    assert len(list((run / "figures" / "mistakes").iterdir())) == 2  # the other's pictures are gone
    assert said["drawn"]["maps"] == ["tsne.png"] and (run / "figures" / "tsne.png").is_file()  # not asked for: as it was


def test_one_stream_and_another_set_are_one_line_each(tmp_path: Path) -> None:
    packed, foreign = packed_moves(tmp_path / "packed"), packed_moves(tmp_path / "foreign", seed=1)
    run, other = finished_run(tmp_path / "run", packed), finished_run(tmp_path / "other", foreign)
    probed(run, packed, ("joint",))
    probed(other, foreign, ("joint",))
    with pytest.raises(InputError, match="no run in"):
        Figures(run=tmp_path / "nothing")()
    with pytest.raises(InputError, match="differ in content_id"):
        Figures(run=run, against=other, points=0, mistakes=0)()
    with pytest.raises(InputError, match="has not been probed"):
        Figures(run=run, against=finished_run(tmp_path / "third", packed), points=0, mistakes=0)()
    Figures(run=run, points=10, data=foreign.path)()
    left_out = drawn.read_record(run)["left_out"]
    assert sorted(left_out) == ["classes", "maps", "mistakes", "training"]
    assert "joint, bone and motion" in left_out["classes"] and "was pretrained on" in left_out["maps"]


def test_pyplot_and_its_global_state_stay_out() -> None:
    confusion_matrix({"joint": scores()})
    assert "matplotlib.pyplot" not in sys.modules or not hasattr(figure_probe, "plt")
