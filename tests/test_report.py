"""The report: rows and columns are what the runs are, sentences follow from the scores, the page needs nothing else and fits."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs import environment, results, stages
from jobs.probe import Probe
from jobs.report import Report, pretrain_command
from jobs.report_tables import Collection
from jobs.report_words import BEATS, BELOW, SAME, _settled, differences
from jobs.run_folder import read_json, write_json
from launch import report as script
from shards.errors import InputError
from tests import reported, runs_example
from tests.moves import finished_run, packed_moves

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SCD-Net and AC-SAR with three seeds, one interaction, full size on NTU-60, labels as texts, a run that has not finished."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    for seed in range(3):
        reported.run(folder, f"base-s{seed}", 0.6, seed=seed, streams=("joint", "bone"), raw=0.9)
        reported.run(folder, f"ours-s{seed}", 0.8, "acsar-small", seed, ("joint", "bone"), raw=0.9)
    reported.run(folder, "none-s0", 0.6, "acsar-small", streams=("joint",), raw=0.9, fuse=False, method_interaction="none", steps=100)
    reported.run(folder, "ntu", 0.8, "acsar", benchmark="ntu60", protocol="xsub")
    marked = {"supervision": "text-from-label", "provenance": "label"}
    reported.run(
        folder, "told", 0.9, "acsar-small", streams=("joint",), fuse=False, facts=marked, report={"supervision": "text-from-label"}
    )
    figure = folder / "ours-s0" / "figures" / "accuracy.png"
    figure.parent.mkdir()
    figure.write_bytes(runs_example.PIXEL)
    runs_example.begin(folder / "half" / "joint", 1, "", 120)
    runs_example.training(folder / "half" / "joint", 1, 7)
    write_json(folder / "half" / "joint" / "config.json", read_json(folder / "ours-s0" / "joint" / "config.json"))
    return folder


@pytest.fixture(scope="module")
def made(runs: Path) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "commit", lambda: "fade" * 10)
        return Report(folder=runs)()


def rows_of(made: dict[str, object], name: str) -> dict[str, dict[str, str]]:
    """A table of the report by its first column."""
    text = (Path(str(made["html"])).parent / f"{name}.csv").read_text()
    found = list(csv.DictReader(io.StringIO(text)))
    head = "method" if "method" in found[0] else next(iter(found[0]))
    return {row[head]: row for row in found}


SCDNET, ACSAR = "SCD-Net (scdnet-small)", "AC-SAR (acsar-small, captions motion, interaction film, steps 200)"
NONE = "AC-SAR (acsar-small, captions motion, interaction none, steps 100)"


def test_runs_that_differ_in_the_seed_alone_are_one_row(made: dict[str, object]) -> None:
    found = made["runs"]
    assert isinstance(found, dict)
    assert (
        found[SCDNET] == ["base-s0", "base-s1", "base-s2"]
        and found[ACSAR] == ["ours-s0", "ours-s1", "ours-s2"]
        and found[NONE] == ["none-s0"]
    )
    assert next(iter(found)) == SCDNET and list(found)[-1].endswith("supervision=text-from-label)")  # apart, and last


def test_cells_are_means_of_the_runs_own_files(runs: Path, made: dict[str, object]) -> None:
    own = [read_json(runs / f"ours-s{seed}" / "probe" / "split" / "joint.json") for seed in range(3)]
    row = rows_of(made, "linear-joint")[ACSAR]
    assert float(row["moves own split"]) == pytest.approx(sum(one["linear"] for one in own) / 3)
    assert float(row["moves own split low"]) == pytest.approx(sum(one["intervals"]["linear"][0] for one in own) / 3)
    assert row["moves own split seeds"] == "0 1 2" and row["NTU-60 x-sub"] == ""
    fused = [read_json(runs / f"base-s{seed}" / "fuse" / "split.json")["subsets"]["J+B"]["top1"] for seed in range(3)]
    assert float(rows_of(made, "streams-1")["J+B"]["moves own split"]) == pytest.approx(sum(fused) / 3)


def test_published_numbers_stand_beside_ours_only_where_set_and_protocol_are_the_papers(made: dict[str, object]) -> None:
    joint = rows_of(made, "linear-joint")
    ours = joint["AC-SAR (captions motion)"]
    assert float(ours["NTU-60 x-sub published"]) == 87.3
    assert float(ours["NTU-60 x-sub difference"]) == pytest.approx(float(ours["NTU-60 x-sub"]) - 87.3)
    assert joint["USDRL"]["NTU-60 x-sub"] == "85.2" and joint["USDRL"]["group"] == "published, not trained here"
    assert "moves own split published" not in ours
    three = rows_of(made, "three-streams")
    assert float(three["AC-SAR (captions motion)"]["NTU-60 x-sub published"]) == 88.4 and three["C2VL"]["NTU-60 x-sub"] == "88.3"
    page = Path(str(made["html"])).read_text()
    assert "No published number compares with moves own split." in page


def test_reference_points_are_rows_and_labels_as_texts_stand_apart(made: dict[str, object]) -> None:
    joint = rows_of(made, "linear-joint")
    assert joint["raw clips, no network"]["group"] == "reference points" and any(name.startswith("random encoder") for name in joint)
    told = next(row for name, row in joint.items() if "text-from-label" in name)
    assert told["group"].startswith("supervision=text-from-label")
    sentences = made["sentences"]
    assert isinstance(sentences, list) and not any("text-from-label" in line and ACSAR in line for line in sentences)


def test_sentences_follow_from_the_scores(made: dict[str, object]) -> None:
    sentences = made["sentences"]
    assert isinstance(sentences, list)
    assert f"moves own split: {ACSAR} beats {SCDNET} on joint, bone, J+B." in sentences
    assert f"moves own split: {SCDNET} is beaten by the raw clips (no network) on joint, bone." in sentences
    assert f"moves own split: {NONE} does not differ beyond the interval from {SCDNET} on joint." in sentences


def test_a_difference_is_the_paired_one(runs: Path) -> None:
    read = [results.read(runs / name) for name in ("base-s0", "base-s1", "ours-s0", "ours-s1")]
    collection = Collection.of(read)
    gaps = [one for one in differences(collection, collection.settings[0]) if one.second == SCDNET and one.streams == "joint"]
    own = {run.name: float(run.reached[0].answers["J"].right.double().mean()) for run in read}
    expected = 50 * (own["ours-s0"] + own["ours-s1"] - own["base-s0"] - own["base-s1"])
    assert [one.cell.value for one in gaps] == [pytest.approx(expected)] and gaps[0].verdict == BEATS
    assert gaps[0].cell.seeds == (0, 1)


def test_a_verdict_wants_every_seed_and_an_interval_without_zero() -> None:
    assert (_settled([(0.1, 2)]), _settled([(-2, -0.1), (-3, -1)]), _settled([(-1, 2), (0, 3)])) == (BEATS, BELOW, SAME)
    assert _settled([(0.1, 2), (-1, 3)]) == "beats in 1 of 2 seeds" and _settled([(-2, -1), (0, 1)]) == "is beaten in 1 of 2 seeds by"
    assert _settled([(-2, -1), (1, 2), (0, 1)]) == "beats in 1 and is beaten in 1 of 3 seeds by"


def test_what_is_not_finished_is_a_line_each(runs: Path, made: dict[str, object]) -> None:
    assert made["unfinished"] == ["half joint: not finished (killed, step 7 of 120): give its pretrain command again"]
    with pytest.raises(InputError, match="no run has been probed yet: half joint: not finished"):
        Report(runs=(Path("half"),), folder=runs)()


def test_an_older_encoders_probe_and_a_second_run_of_one_seed_are_told(tmp_path: Path) -> None:
    reported.run(tmp_path, "a", 0.6, streams=("joint",), fuse=False)
    reported.run(tmp_path, "b", 0.8, streams=("joint",), fuse=False)
    write_json(tmp_path / "b" / "joint" / "result.json", {"status": "finished", "encoder_sha256": "newer"})
    told = Report(folder=tmp_path)()
    assert told["unfinished"] == ["b joint: split was probed with an older encoder; probe again"]
    assert "b has the configuration and the seed of a" in (tmp_path / "reports" / "report" / "report.md").read_text()


def test_other_captions_of_the_same_clips_are_another_row(tmp_path: Path) -> None:
    reported.run(tmp_path, "a", 0.6, "acsar-small", streams=("joint",), fuse=False)
    reported.run(
        tmp_path, "b", 0.6, "acsar-small", streams=("joint",), fuse=False, facts={"content_id": "6b" * 32}, data=Path("packed/shuffled")
    )
    read = Collection.of([results.read(tmp_path / name) for name in ("a", "b")])
    assert len(read.settings) == 1 and read.twice() == []
    assert list(read.rows) == [f"AC-SAR (acsar-small, captions motion, texts-of {name})" for name in ("moves 5a5a5a", "shuffled 6b6b6b")]


def test_deviations_and_commands_are_those_of_the_runs(runs: Path, made: dict[str, object]) -> None:
    text = (Path(str(made["html"])).parent / "report.md").read_text()
    assert "acsar-small is not the published size: " in text and "width 128 instead of 2048" in text
    assert "Captions were written from the skeletons by rules" in text and "interaction none instead of film" in text
    command = pretrain_command(results.read(runs / "none-s0"))
    assert command == (
        "python launch/pretrain.py --name none-s0 --recipe acsar-small --data packed/moves --protocol split --seed 0 "
        "--method.interaction none --steps 100"
    )
    assert command in text and "c0ffeec0ffee" in text and "set 5a5a5a5a5a5a" in text


def test_semi_supervised_and_fine_tuned_numbers_have_tables(tmp_path: Path) -> None:
    """Table 5's layout beside its numbers; trials of other seeds are one row, fused ones another."""
    for seed in range(2):
        run = reported.run(tmp_path, f"a{seed}", 0.8, "acsar", seed, ("joint", "bone"), benchmark="ntu60", protocol="xsub")
        repeats = [{"seed": r, "top1": 60.0 + 2 * r + seed, "random": 30.0, "raw": 35.0} for r in range(2)]
        rows = [{"fraction": share, "repeats": repeats, "interval": [50.0, 70.0]} for share in (0.01, 0.1)]
        semi = {"stream": "joint", "content_id": "5a" * 32, "protocol": "xsub", "benchmark": "ntu60", "draw": "unbalanced", "rows": rows}
        write_json(run / "semi" / "xsub" / "joint.json", semi)
        write_json(run / "semi" / "logs" / "submission.json", {})
        for stream in ("joint", "bone"):
            told = {"status": "finished", "stream": stream, "top1": 80.0 + seed, "interval": [75.0, 85.0], "seed": 7, "benchmark": "ntu60"}
            told |= {"content_id": "5a" * 32, "protocol": "xsub", "encoder_sha256": stream}
            write_json(run / "finetune" / "xsub-seed7" / stream / "result.json", told)
        fused = {"subsets": {"J+B": {"top1": 90.0, "intervals": {"top1": [88.0, 92.0]}}}, "encoders": {"joint": "joint", "bone": "bone"}}
        write_json(run / "fuse" / "finetune-xsub-seed7.json", fused)
    made = Report(folder=tmp_path)()
    semi_rows, tuned = rows_of(made, "semi"), rows_of(made, "finetune")
    ours = semi_rows["AC-SAR (captions motion)"]
    assert (float(ours["NTU-60 x-sub, unbalanced 1 %"]), float(ours["NTU-60 x-sub, unbalanced 1 % published"])) == (61.5, 68.0)
    assert float(semi_rows["raw clips, no network"]["NTU-60 x-sub, unbalanced 10 %"]) == 35.0 and "CMD" in semi_rows
    assert float(tuned["AC-SAR (captions motion), xsub, joint"]["NTU-60 x-sub"]) == 80.5
    assert float(tuned["AC-SAR (captions motion), xsub, J+B"]["NTU-60 x-sub"]) == 90.0


def test_what_the_probe_writes_is_what_the_report_reads(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "runs" / "tiny", packed_moves(tmp_path / "packed", per=2))
    numbers = Probe(run=run)()["joint"]
    made = Report(runs=(run,), out=tmp_path / "out")()
    linear, nearest = rows_of(made, "linear-joint"), rows_of(made, "knn-joint")
    assert float(linear["tiny (tiny)"]["packed own split"]) == pytest.approx(numbers["linear"])
    assert float(linear["random encoder"]["packed own split"]) == pytest.approx(numbers["random_linear"])
    assert float(nearest["raw clips, no network"]["packed own split"]) == pytest.approx(numbers["raw_knn1"])
    assert len(rows_of(made, "differences-1")) == 2 and made["unfinished"] == []


class Links(HTMLParser):
    """What a page would fetch, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "line", "circle", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "path"):
            assert self.open.pop() == tag, tag


def test_the_page_needs_nothing_else(made: dict[str, object]) -> None:
    text = Path(str(made["html"])).read_text()
    page = Links()
    page.feed(text)
    assert page.open == [] and all(source.startswith(("#", "data:image/png;base64,")) for source in page.sources)
    assert sum(source.startswith("data:") for source in page.sources) == 1 and "http" not in text and "<script" not in text
    assert "url(" not in text and "@import" not in text


def test_the_same_runs_make_the_same_bytes(runs: Path, made: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "commit", lambda: "fade" * 10)
    Report(folder=runs, out=tmp_path)()
    for file in made["files"] if isinstance(made["files"], list) else []:
        assert (tmp_path / Path(file).name).read_bytes() == Path(file).read_bytes()


def test_a_report_is_finished_until_a_run_is_probed_again(tmp_path: Path) -> None:
    run = reported.run(tmp_path / "runs", "a", 0.6, streams=("joint",), fuse=False)
    description = tmp_path / "job.json"
    job = Report(runs=(run,), out=tmp_path / "out")
    stages.write_job(job, description)
    assert not stages.finished("report", description, "")
    stages.run("report", description, "")
    assert stages.finished("report", description, "")
    reported.run(tmp_path / "runs", "a", 0.6, streams=("joint", "bone"), fuse=False)
    assert not stages.finished("report", description, "")


def test_the_command_prints_what_it_wrote(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--runs", str(runs / "base-s0"), "ours-s0", "--folder", str(runs), "--out", str(tmp_path)]
    assert script.main([*words, "--dry-run"]) == 0 and not list(tmp_path.iterdir())
    assert capsys.readouterr().out.split() == [str(runs / "base-s0"), str(runs / "ours-s0")]
    assert script.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == {"SCD-Net (scdnet-small)": ["base-s0"], "AC-SAR (acsar-small, captions motion)": ["ours-s0"]}
    with pytest.raises(InputError, match="--runs nowhere: no run in"):
        script.main(["--runs", "nowhere", "--folder", str(runs)])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_running_over_the_edge(made: dict[str, object], tmp_path: Path, width: int) -> None:
    """The page in a frame of a phone's and a desk's width: nothing but what scrolls by itself is wider than the frame."""
    assert CHROMIUM is not None
    text = Path(str(made["html"])).read_text()
    measure = (
        "<script>addEventListener('load', () => { const d = document.documentElement; "
        "d.setAttribute('data-seen', [innerWidth, d.scrollWidth, document.querySelectorAll('svg circle').length, "
        "document.images[0].naturalWidth].join(' ')); });</script>"
    )
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{measure}</body>"))
    frame = f'<iframe src="page.html" width="{width}" height="900"></iframe>'
    tell = "<script>onload = () => document.title = document.querySelector('iframe').contentDocument.documentElement.dataset.seen</script>"
    (tmp_path / "frame.html").write_text(frame + tell)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    shown = subprocess.run(
        [CHROMIUM, *flags, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    seen = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", shown)
    assert seen is not None, shown[:500]
    inner, whole, dots, picture = map(int, seen.groups())
    assert inner == width and whole <= inner and dots > 10 and picture == 1
