"""What files of evaluation tell a tracker: semi-supervised numbers, fine-tunings, fusions, pictures, and the axes of charts."""

from pathlib import Path

from jobs import replay, tracking
from jobs.run_folder import write_json
from tests import runs_example as example


def points(part: replay.Part) -> dict[str, float]:
    return {point.key: point.value for entry in part.entries for point in entry.points}


def test_semi_supervised_numbers_stand_with_their_stream(tmp_path: Path) -> None:
    run = example.comparison(tmp_path, "a", steps=5, streams=["joint"])
    before = replay.state(run, "joint")
    row = {"fraction": 0.01, "mean": 40.0, "interval": [35.0, 45.0], "random_mean": 30.0, "raw_mean": None, "repeats": []}
    write_json(run / "semi" / "xsub" / "joint.json", {"rows": [row, {**row, "fraction": 0.1, "mean": 60.0}]})
    write_json(run / "semi" / "xsub-balanced" / "joint.json", {"rows": [row]})
    part = replay.stream_part(run, "joint", {})
    found = points(part)
    assert (found["semi_1"], found["semi_1_low"], found["semi_1_random"], found["semi_10"]) == (40.0, 35.0, 30.0, 60.0)
    assert found["xsub-balanced/semi_1"] == 40.0 and "semi_1_raw" not in found
    assert replay.state(run, "joint") != before  # it is told though its training is long over
    marks = {entry.source: entry.mark for entry in part.entries}
    assert not [key for key in points(replay.stream_part(run, "joint", marks)) if "semi" in key]


def test_a_fine_tuning_is_a_part_of_its_own(tmp_path: Path) -> None:
    run = example.comparison(tmp_path, "a", steps=5, streams=["joint"])
    folder = run / "finetune" / "xsub-0.01" / "joint"
    write_json(folder / "config.json", {"job": {"fraction": 0.01, "seed": 3}, "stream": "joint", "facts": {}})
    example.begin(folder, 1, "", 5)
    example.training(folder, 1, 5)
    example.end(folder, 5)
    write_json(folder / "result.json", {"status": "finished", "top1": 66.0, "top5": 90.0, "interval": [60.0, 70.0], "best_on_test": None})
    assert replay.trials(run) == ["finetune/xsub-0.01/joint"] and replay.streams(run) == ["joint"]
    part = replay.trial_part(run, "finetune/xsub-0.01/joint", {})
    found = points(part)
    assert (part.kind, part.status, part.params["trial"], part.params["seed"]) == ("finetune", replay.FINISHED, "xsub-0.01", "3")
    assert part.params["recipe"] == "demo" and part.params["data_set"] == "synthetic"  # of the run that it starts from
    assert (found["top1"], found["top1_low"], found["top1_high"]) == (66.0, 60.0, 70.0) and "loss" in found and "best_on_test" not in found


def test_weights_and_lists_of_people_are_no_metrics(tmp_path: Path) -> None:
    run = example.comparison(tmp_path, "a", steps=5, streams=["joint"])
    fused = {"top1": 70.0, "weights": {"J+B": [0.5, 0.5]}, "subsets": {"J": {"top1": 60.0, "intervals": {"top1": [1.0, 2.0]}}}}
    write_json(run / "fuse" / "xsub.json", fused)
    write_json(run / "fuse" / "job.json", {"seed": 0})
    write_json(run / "probe" / "xsub" / "joint.json", {"linear": 50.0, "held_aside_subjects": [3, 9], "linear_last": 49.0, "seed": 0})
    found = points(replay.comparison_part(run, [], {}))
    assert found["fused_top1"] == 70.0 and found["fused_subsets_J_top1"] == 60.0 and not [key for key in found if "weights" in key]
    assert set(points(replay.probe_parts(run, {})[0])) == {"linear", "linear_last"}


def test_a_schedule_or_another_set_is_a_setting_and_no_protocol(tmp_path: Path) -> None:
    run = example.comparison(tmp_path, "a", steps=5, streams=["joint"])
    document = {"linear": 50.0, "protocol": "xsub", "schedule": "paper", "transfer": "", "transductive": False}
    write_json(run / "probe" / "xsub-paper" / "joint.json", document)
    part = next(part for part in replay.probe_parts(run, {}) if part.key == "probe/xsub-paper/joint")
    assert (part.params["protocol"], part.params["schedule"], part.params["setting"]) == ("xsub", "paper", "xsub-paper")
    assert "transductive" not in part.tags
    assert points(replay.stream_part(run, "joint", {}))["xsub-paper/linear"] == 50.0


def test_pictures_and_films_in_folders_are_forwarded(tmp_path: Path) -> None:
    run = example.comparison(tmp_path, "a", steps=5, streams=["joint"])
    for name in ("mistakes/1.gif", "mistakes/1.mp4", "tsne.png", "notes.txt", ".half.png"):
        (run / "figures" / name).parent.mkdir(exist_ok=True)
        (run / "figures" / name).write_bytes(b"x")
    found = set(replay.comparison_part(run, [], {}).artifacts)
    assert found == {"figures/confusion.png", "figures/mistakes/1.gif", "figures/mistakes/1.mp4", "figures/tsne.png"}


def test_every_run_has_the_axes_that_methods_are_compared_by(tmp_path: Path) -> None:
    example.comparison(tmp_path, "a", steps=5, streams=["joint"])
    plain = {name: value for name, value in example.METHOD.items() if name not in ("tau_cross", "weight", "interaction")}
    example.comparison(tmp_path, "b", steps=5, streams=["joint"], method=plain)
    ours, base = (replay.stream_part(tmp_path / name, "joint", {}).params for name in ("a", "b"))
    assert (ours["method"], ours["interaction"], ours["caption_source"]) == ("acsar", "film", "program")
    assert (base["method"], base["interaction"], base["caption_source"]) == ("scdnet", "no text", "no text")
    assert all(axis in params for axis in tracking.AXES for params in (ours, base))


def test_axes_are_what_not_all_runs_have_alike() -> None:
    params = {
        "stream": [{"method": "a", "seed": "0", "stream": "joint"}, {"method": "b", "seed": "0", "stream": "joint"}],
        "comparison": [],
    }
    page = tracking._all_charts({"stream": {"linear", "loss"}, "comparison": {"fused_top1"}}, params)
    streams, fused = (chart for chart in page["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert (streams["selectedParams"], streams["selectedMetrics"]) == (["method"], ["linear"]) and fused["selectedMetrics"] == [
        "fused_top1"
    ]
    assert {chart["metricSectionId"] for chart in page["compareRunCharts"]} == {section["uuid"] for section in page["compareRunSections"]}
