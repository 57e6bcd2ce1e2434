"""What can be looked at on this machine before anything is started: packages, devices, disks, tracking, offline assets.

Every look gives checks; a check is a sentence and, where something is wrong, the way out. Slurm's are in launch/slurm_checks.py."""

import configparser
import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from jobs import InputError, cores
from jobs import assets as fetched
from jobs.filesystem import mount_of
from jobs.tracking_address import VARIABLE, address, without_secrets
from launch.cluster import gpu_count

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
SLOW_IMPORT = 30.0  # seconds
CLOCKS_APART = 5.0  # seconds
PATIENCE = 300.0  # seconds for an import; a cold network file system takes a minute
MEMORY = ("tmpfs", "ramfs")
TORCH = """
import json, torch
there = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if there else []
bf16 = there and torch.cuda.is_bf16_supported()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "names": names, "bf16": bf16}))
"""


Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was looked at, how it is, and what to do about it."""

    name: str
    status: Status  # warn: works, but worse than it could; fail: jobs would fail
    said: str
    fix: str = ""


def packages(settings: Path = ROOT / "setup.cfg") -> Iterator[Check]:
    """Python and the packages against setup.cfg."""
    wanted = configparser.ConfigParser()
    wanted.read(settings)
    python = wanted["options"]["python_requires"]
    fits = SpecifierSet(python).contains(platform.python_version())
    said = f"{platform.python_version()}, {sys.executable}" + ("" if fits else f"; {python} is needed")
    yield Check("python", "ok" if fits else "fail", said, "" if fits else "make install PYTHON=/path/to/python3.11")
    wrong = unmet(wanted["options"]["install_requires"].split("\n"))
    yield Check("packages", "fail" if wrong else "ok", "; ".join(wrong) or "as setup.cfg asks", f"make -C {ROOT} install" if wrong else "")
    lacking = unmet(wanted["options.extras_require"]["caption"].split("\n"))
    fix = f"{sys.executable} -m pip install -e '{ROOT}[caption]'"
    said = f"{'; '.join(lacking)} (only for describing videos and encoding text)" if lacking else "as setup.cfg asks"
    yield Check("caption packages", "warn" if lacking else "ok", said, fix if lacking else "")


def unmet(requirements: Sequence[str]) -> list[str]:
    """Those of the requirements that are not installed or have another version, in words."""
    wrong = []
    for requirement in [Requirement(line) for line in requirements if line.strip()]:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}: {requirement.specifier} is needed")
    return wrong


def devices() -> Iterator[Check]:
    """What PyTorch sees, and whether the engine can be imported; in processes of their own, which may crash or hang."""
    began = time.monotonic()
    told, error = in_python(TORCH)
    if error:
        yield Check("torch", "fail", f"cannot be imported: {error}", f"make -C {ROOT} install")
        return
    took = time.monotonic() - began
    slow = took > SLOW_IMPORT
    fix = "keep the environment on a local disk or in a container image: every rank imports it" if slow else ""
    yield Check("torch", "warn" if slow else "ok", f"{told['version']}, imported in {took:.0f} s", fix)
    present = gpu_count()
    if told["names"]:
        bf16 = "bf16" if told["bf16"] else "no bf16, fp32 is used"
        yield Check("devices", "ok", f"{len(told['names'])} GPU(s), {told['names'][0]}, {bf16}")
    elif present:
        build = f"for CUDA {told['cuda']}" if told["cuda"] else "for CPUs only"
        fix = "install the PyTorch build that fits the driver (nvidia-smi shows the newest CUDA it takes)"
        yield Check("devices", "fail", f"{present} GPU(s) in this machine, but PyTorch sees none; it is built {build}", fix)
    else:
        yield Check("devices", "ok", "no GPU here: training runs on CPUs, in fp32")
    _, error = in_python("import jobs.engine; print({})")
    fix = f"make -C {ROOT} install" if error else ""
    yield Check("deepspeed", "fail" if error else "ok", f"cannot be imported: {error}" if error else version("deepspeed"), fix)


def in_python(code: str) -> tuple[dict[str, Any], str]:
    """The JSON that the code prints last, and why there is none."""
    try:
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"not done after {PATIENCE:.0f} s"
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return dict(json.loads(done.stdout.strip().splitlines()[-1])), ""


def machine() -> Iterator[Check]:
    """Processors, memory, tools and temporary files of this machine."""
    memory = psutil.virtual_memory()
    little = memory.available < 4 * GB
    said = f"{cores()} core(s), {memory.available / GB:.0f} of {memory.total / GB:.0f} GB memory free"
    fix = "end other programs, or train elsewhere: a rank takes 2 GB and more" if little else ""
    yield Check("machine", "warn" if little else "ok", said, fix)
    make = shutil.which("make")
    yield Check(
        "make", "ok" if make else "warn", make or "not on the PATH", "" if make else "install make, or use pip as the Makefile does"
    )
    try:
        with tempfile.NamedTemporaryFile(prefix="acsar-doctor-") as file:
            free = shutil.disk_usage(file.name).free
    except OSError as error:
        yield Check(
            "temporary files", "fail", f"none can be written: {error.strerror or error}", "export TMPDIR=/a/folder/that/is/writable"
        )
        return
    full = free < GB
    said = f"{tempfile.gettempdir()}, {free / GB:.0f} GB free"
    yield Check("temporary files", "warn" if full else "ok", said, "export TMPDIR=/some/larger/disk" if full else "")


def runs_folder(runs: Path, slurm: bool) -> Iterator[Check]:
    """May it be written, is there room, do other nodes see it? A folder that does not exist yet is looked at by its nearest parent."""
    place = next(path for path in [runs, *runs.parents] if path.exists())
    choose = "--runs FOLDER or ACSAR_RUNS=FOLDER names another"
    try:
        behind = written(place)
    except InputError as error:
        yield Check("runs folder", "fail", f"{runs}: {error}", choose)
        return
    yield Check("runs folder", "ok", f"{runs} {'is writable' if place == runs else 'can be made'}")
    off = abs(behind) > CLOCKS_APART
    said = f"the file server's clock is {abs(behind):.0f} s {'behind' if behind > 0 else 'ahead'}" if off else "as the file system's"
    yield Check("clock", "warn" if off else "ok", said, "have it set by NTP: ages that status shows are off by as much" if off else "")
    yield room(place, choose)
    mount = mount_of(place)
    said = f"{mount.kind} at {mount.point}"
    if mount.kind in MEMORY:
        yield Check("file system", "warn", f"{said}: it is lost when the machine restarts", choose)
    elif slurm and not mount.network:
        shared = "put runs on the cluster's shared file system, or see with --try-nodes 2 whether the nodes share it"
        yield Check("file system", "warn", f"{said}: a local disk, which nodes may not share", shared)
    else:
        yield Check("file system", "ok", said)


def written(folder: Path) -> float:
    """Write, claim, rename and remove a file there; how many seconds the file system's clock is behind this machine's.

    Raises InputError when the folder does not do it."""
    first, second = (folder / f".doctor-{uuid.uuid4().hex}" for _ in range(2))
    try:
        os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        now = time.time()
        try:
            os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            first.rename(second)
            return now - second.stat().st_mtime
        raise InputError("the file system creates one file twice (O_EXCL): attempts could not be told apart")
    except OSError as error:
        raise InputError(f"it cannot be written ({error.strerror}: {error.filename})") from None
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink()


def room(place: Path, choose: str) -> Check:
    """Free bytes and, where the file system counts them, free files."""
    free, stat = shutil.disk_usage(place).free, os.statvfs(place)
    files = stat.f_favail if stat.f_files else None
    said = f"{free / GB:.0f} GB" + ("" if files is None else f", {files:,} files") + " free"
    if free < GB or files == 0:
        return Check("room", "fail", f"{said}: no checkpoint fits", f"make room, or {choose}")
    if free < 10 * GB or (files is not None and files < 10_000):
        return Check("room", "warn", f"{said}: three streams of full size keep some 10 GB of checkpoints", f"make room, or {choose}")
    return Check("room", "ok", said)


def tracking(runs: Path) -> Iterator[Check]:
    """Where MLflow's copy of the journals goes, and whether a server answers. Training never waits for it."""
    try:
        there = address(runs)
    except InputError as error:
        yield Check("tracking", "fail", str(error), f"unset {VARIABLE}, or name a server")
        return
    shown = without_secrets(there.uri)
    if not there.server:
        yield Check("tracking", "ok", "; ".join(filter(None, [shown, there.why])))
        return
    trouble = answered(there.uri)
    fix = f"start the server or unset {VARIABLE}; training goes on without, `python launch/dashboard.py sync` catches up" if trouble else ""
    yield Check("tracking", "warn" if trouble else "ok", f"{shown} {trouble or 'answers'}", fix)


def answered(uri: str, patience: float = 5.0) -> str:
    """Why a web server is no help: "" when it answers, also when it asks who we are."""
    parts = urllib.parse.urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health").geturl()
    try:
        urllib.request.urlopen(urllib.request.Request(bare, method="HEAD"), timeout=patience).close()
    except urllib.error.HTTPError as error:
        return f"answers with {error.code}" if error.code >= 500 or error.code == 404 else ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"does not answer ({getattr(error, 'reason', error)})"
    return ""


def assets() -> Iterator[Check]:
    """Which weights for describing videos are on this machine; only says what is there."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub")
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*"))
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    said = f"{cache}: {', '.join(models) or 'no models'}; {'offline' if offline else 'missing ones are downloaded'}"
    yield Check("model cache", "ok", said)
    folder = fetched.assets_folder()
    try:
        there = [manifest.name for manifest in fetched.manifests() if fetched.locate(manifest.name)]
    except InputError as error:
        yield Check("weights", "warn", str(error), f"{sys.executable} {ROOT}/launch/fetch_assets.py")
        return
    none = "none fetched; models that describe videos and encode text want launch/fetch_assets.py"
    yield Check("weights", "ok", f"{folder}: {', '.join(there) or none}")
