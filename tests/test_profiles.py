"""Cluster profiles: the example file is valid and whole, mistakes are named."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from jobs import InputError
from launch.profiles import VARIABLE, Profile, minutes, profile_of, read_profile

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "cluster.toml"


def written(folder: Path, text: str) -> Path:
    path = folder / "box.toml"
    path.write_text(text)
    return path


def test_example_has_every_key_and_is_valid() -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    assert set(document) == {field.name for field in dataclasses.fields(Profile)}
    profile = read_profile(EXAMPLE)
    assert profile.exclude == ("gpu017", "gpu103")
    assert profile.setup == ("module purge", "module load cuda/12.6")
    assert profile.environment == {"NCCL_SOCKET_IFNAME": "ib0", "HF_HUB_OFFLINE": "1"}
    assert profile.sbatch["mail-type"] == "END,FAIL"
    assert profile.mem_gb == 120.0
    assert isinstance(profile.mem_gb, float)


def test_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_profile(None) == Profile()
    monkeypatch.setenv(VARIABLE, str(written(tmp_path, 'partition = "long"')))
    assert read_profile(None) == Profile(partition="long")
    assert read_profile(EXAMPLE).partition == "gpu"


def test_goes_through_json_unchanged() -> None:
    profile = read_profile(EXAMPLE)
    assert profile_of(json.loads(json.dumps(dataclasses.asdict(profile))), "submission.json") == profile
    assert profile_of(dataclasses.asdict(Profile()), "submission.json") == Profile()


@pytest.mark.parametrize(
    ("time", "limit"),
    [("90", 90), ('"90"', 90), ('"1:30:00"', 90), ('"00:30:01"', 31), ('"2-00:00:00"', 2880), ('"1-12:00:00"', 2160), ('"0:05:00"', 5)],
)
def test_times(time: str, limit: int, tmp_path: Path) -> None:
    assert minutes(read_profile(written(tmp_path, f"time = {time}"))) == limit
    assert minutes(Profile()) == 1440


def test_unknown_key_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"box\.toml: unknown key 'partitions'; did you mean partition\? valid: partition, .*at_once"):
        profile_of({"partitions": "gpu"}, "box.toml")
    with pytest.raises(InputError, match=r"unknown key 'zzz'; valid: partition"):
        profile_of({"zzz": 1}, "box.toml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("partition = 3", r"partition = 3: text is wanted"),
        ("gpus_per_node = true", r"gpus_per_node = True: a whole number is wanted"),
        ("gpus_per_node = 1.5", r"gpus_per_node = 1.5: a whole number is wanted"),
        ("gpus_per_node = -1", r"gpus_per_node = -1: at least 0"),
        ('mem_gb = "64G"', r"mem_gb = '64G': a number is wanted"),
        ("mem_gb = 0", r"mem_gb = 0.0: at least"),
        ("cpus_per_task = 0", r"cpus_per_task = 0: at least 1"),
        ("at_once = 0", r"at_once = 0: at least 1"),
        ('exclude = "n1"', r"exclude = 'n1': a list of texts is wanted"),
        ("setup = [1]", r"setup = \[1\]: a list of texts is wanted"),
        ("environment = []", r"environment = \[\]: a table of texts is wanted"),
        ("environment.A = 1.5", r"environment = {'A': 1.5}: a table of texts is wanted"),
        ('environment."A B" = "x"', r"environment\.A B: that is no name of a variable"),
        ('time = "12:00"', r"time = '12:00': minutes \(90\) or"),
        ('time = "-5"', r"time = '-5'"),
        ("time = 0", r"time = '0'"),
        ('time = "0:00:00"', r"time = '0:00:00'"),
        ("time = 1.5", r"time = '1.5': minutes"),
        ("time = 2\nsignal_s = 120", r"signal_s = 120 is not shorter than time = '2'"),
        ('sbatch.time = "10"', r"sbatch.time: the profile's own key time says that"),
        ('sbatch.cpus_per_task = "10"', r"sbatch.cpus_per_task: the profile's own key cpus_per_task says that"),
        ("sbatch.nodes = 3", r"sbatch.nodes: the suite decides that itself"),
        ('sbatch.no-requeue = ""', r"sbatch.no-requeue: jobs must be requeued"),
        ("partition = ", r"is no TOML: "),
    ],
)
def test_mistakes_are_named(line: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, line)
    with pytest.raises(InputError, match=f"cluster profile {path}.*{said}"):
        read_profile(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: No such file or directory; docs/cluster\.toml"):
        read_profile(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no TOML"):
        read_profile(tmp_path / "bytes.toml")
