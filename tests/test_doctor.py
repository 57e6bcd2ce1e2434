"""The doctor: every check is a line, what would break a run fails with the way out, and the exit code says so."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from jobs import InputError
from jobs.filesystem import Mount
from launch import checks, slurm_checks
from launch.checks import Check
from launch.doctor import main
from launch.profiles import VARIABLE

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["python", "packages", "caption packages", "torch", "devices", "deepspeed", "machine", "make", "temporary files", "slurm"]
NAMES += ["runs folder", "clock", "room", "file system", "tracking", "model cache", "weights"]


def doctor(*words: str | Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "launch" / "doctor.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **changes})


def by_name(found: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that importing PyTorch twice takes."""
    monkeypatch.setattr(checks, "in_python", lambda code: ({"version": "2.9", "cuda": None, "names": [], "bf16": False}, ""))


def test_as_a_command(tmp_path: Path) -> None:
    runs = tmp_path / "a" / "runs"
    ended = doctor("--runs", runs, "--json", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", ACSAR_ASSETS=str(tmp_path))
    document = json.loads(ended.stdout)
    told = {check["name"]: check for check in document["checks"]}
    assert list(told) == NAMES
    assert ended.returncode == 0 and document["ok"], ended.stdout + ended.stderr
    assert told["runs folder"] == {"name": "runs folder", "status": "ok", "said": f"{runs} can be made", "fix": ""}
    assert "offline" in told["model cache"]["said"]
    assert "none fetched" in told["weights"]["said"]
    assert all(check["fix"] for check in document["checks"] if check["status"] != "ok")
    assert not runs.parent.exists()  # it looks, and leaves nothing


def test_failures_decide_the_exit_code(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "box.toml"
    profile.write_text('partitoin = "gpu"\n')
    (tmp_path / "runs").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--runs", str(tmp_path / "runs"), "--cluster-profile", str(profile)]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line.split(maxsplit=1)[1] for line in lines if line.startswith("fail")]
    assert [line[:18].strip() for line in failed] == ["slurm", "cluster profile", "runs folder"]
    assert "sbatch, srun, squeue" in failed[0]
    assert "unknown key 'partitoin'; did you mean partition?" in failed[1]
    assert "Not a directory" in failed[2]
    assert all(lines[lines.index(f"fail  {line}") + 1].strip().startswith("-> ") for line in failed)
    assert "checks: 3 failed, " in lines[-1]


def test_wrong_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"did you mean --runs\?"):
        main(["--run", "x"])
    with pytest.raises(InputError, match="--try-nodes -1"):
        main(["--try-nodes", "-1"])
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "exit code 0 when nothing failed" in " ".join(capsys.readouterr().out.lower().split())


def test_versions_against_setup_cfg(tmp_path: Path) -> None:
    settings = tmp_path / "setup.cfg"
    settings.write_text(
        "[options]\npython_requires = >=3.99\ninstall_requires =\n    numpy>=99\n    no-such-package>=1\n    pytest>=8\n"
        "[options.extras_require]\ncaption =\n    nothing-like-it\n"
    )
    told = by_name(checks.packages(settings))
    assert told["python"].status == "fail" and ">=3.99 is needed" in told["python"].said
    assert told["packages"].status == "fail"
    assert told["packages"].said.startswith("numpy ") and ">=99 is needed; no-such-package is not installed" in told["packages"].said
    assert told["caption packages"].status == "warn"
    assert {check.status for check in by_name(checks.packages()).values()} <= {"ok", "warn"}


def test_devices(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "gpu_count", lambda: 0)
    assert [check.status for check in checks.devices()] == ["ok", "ok", "ok"]
    monkeypatch.setattr(checks, "gpu_count", lambda: 4)
    unseen = by_name(checks.devices())["devices"]
    assert unseen.status == "fail" and "4 GPU(s) in this machine, but PyTorch sees none; it is built for CPUs only" in unseen.said
    seen = {"version": "2.9", "cuda": "12.6", "names": ["H100", "H100"], "bf16": True}
    monkeypatch.setattr(checks, "in_python", lambda code: (seen, ""))
    assert by_name(checks.devices())["devices"].said == "2 GPU(s), H100, bf16"


def test_an_import_that_fails() -> None:
    assert checks.in_python("import no_such_module")[1] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert checks.in_python("print('hello'); print('{\"a\": 1}')") == ({"a": 1}, "")


@pytest.mark.parametrize("runs", ["/proc/none/runs", "/dev/null/runs", "/dev/null"])
def test_runs_folder_that_cannot_be_written(runs: str) -> None:
    [told] = checks.runs_folder(Path(runs), slurm=False)
    assert told.status == "fail"
    assert runs in told.said and "cannot be written" in told.said
    assert "--runs" in told.fix


def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(kind: str, slurm: bool) -> str:
        monkeypatch.setattr(checks, "mount_of", lambda path: Mount(kind, Path("/data")))
        return by_name(checks.runs_folder(tmp_path, slurm))["file system"].status

    assert [status(kind, slurm=False) for kind in ("ext4", "nfs4", "tmpfs")] == ["ok", "ok", "warn"]
    assert [status(kind, slurm=True) for kind in ("ext4", "nfs4", "tmpfs")] == ["warn", "ok", "warn"]


def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((5e8, "fail"), (5e9, "warn"), (5e11, "ok")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path, free=free: type("Usage", (), {"free": free}))
        assert checks.room(tmp_path, "").status == status
    full = os.statvfs_result((4096, 4096, 10**9, 10**9, 10**9, 1000, 0, 0, 0, 255))
    monkeypatch.setattr(checks.os, "statvfs", lambda path: full)
    assert checks.room(tmp_path, "").status == "fail"  # no inodes


def test_a_folder_that_is_written_is_left_as_it_was(tmp_path: Path) -> None:
    assert abs(checks.written(tmp_path)) < checks.CLOCKS_APART
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback that notes what it was asked."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(200 if self.path == "/mlflow/health" else 404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()


def test_tracking_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]) -> None:
    where, asked = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@{where}/mlflow/")
    [told] = checks.tracking(tmp_path)
    assert told.status == "ok" and told.said.endswith("answers") and "secret" not in told.said
    assert asked == ["/mlflow/health None"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{where}")
    [told] = checks.tracking(tmp_path)
    assert told.status == "warn" and "answers with 404" in told.said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    [told] = checks.tracking(tmp_path)
    assert told.status == "warn" and "does not answer" in told.said and "dashboard.py sync" in told.fix


def test_tracking_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    [told] = checks.tracking(tmp_path)
    assert told == Check("tracking", "ok", f"sqlite:///{tmp_path}/mlflow.db")


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    line, answers = slurm_checks.controller(asked=False)
    assert (line.status, answers) == ("ok", False)
    line, answers = slurm_checks.controller(asked=True)
    assert (line.status, answers) == ("fail", False)


def test_weights_that_are_not_whole_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACSAR_ASSETS", str(tmp_path))
    (tmp_path / "yolov5mu.pt").mkdir()
    (tmp_path / "yolov5mu.pt" / "yolov5mu.pt").write_bytes(b"boxes")
    manifest = {
        "name": "yolov5mu.pt",
        "role": "detector",
        "source": "",
        "revision": "",
        "files": {"yolov5mu.pt": {"bytes": 5, "sha256": ""}},
    }
    (tmp_path / "yolov5mu.pt.json").write_text(json.dumps(manifest))
    assert by_name(checks.assets())["weights"] == Check("weights", "ok", f"{tmp_path}: yolov5mu.pt")
    (tmp_path / "yolov5mu.pt" / "yolov5mu.pt").write_bytes(b"box")
    told = by_name(checks.assets())["weights"]
    assert told.status == "warn" and "has 3 bytes instead of 5" in told.said and "launch/fetch_assets.py" in told.fix
