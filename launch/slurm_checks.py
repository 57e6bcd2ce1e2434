"""What can be asked of Slurm before anything is submitted, and what its nodes see of this machine's folders."""

import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from jobs import InputError
from launch import scheduler
from launch.checks import Check, Status
from launch.cluster import shape
from launch.profiles import Profile
from launch.scheduler import Partition
from launch.submission import python_of, script
from launch.unit import Unit

COMMANDS = ("sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel", "sacct")
QUEUE_PATIENCE = 60  # seconds that --try-nodes waits for nodes
NODE_PATIENCE = 120  # seconds that nodes then have
NFS_PATIENCE = 15.0  # seconds until another host's new file is seen
SEEN, BLIND, MUTE, NO_PYTHON = "seen", "blind", "read-only", "no-python"
PREEMPTION = {
    "OFF": "jobs are not pre-empted",
    "REQUEUE": "pre-empted jobs are requeued and go on",
    "SUSPEND": "pre-empted jobs are suspended and go on",
    "GANG": "jobs take turns",
}


def controller(asked: bool) -> tuple[Check, bool]:
    """Does a controller answer? `asked`: Slurm is to be used, so that its absence is a failure."""
    lacking = [name for name in COMMANDS if shutil.which(name) is None]
    local = "without it --cluster local runs everything on this machine"
    if len(lacking) == len(COMMANDS) and not asked:
        return Check("slurm", "ok", "not on this machine: jobs run here"), False
    if lacking:
        return Check("slurm", "fail", f"{', '.join(lacking)} not on the PATH", f"log in to the cluster's login node; {local}"), False
    try:
        settings = scheduler.configuration()
    except InputError as error:
        status: Status = "fail" if asked else "warn"
        return Check("slurm", status, f"no controller answers: {error}", f"does SLURM_CONF name the right file? {local}"), False
    return Check("slurm", "ok", f"{settings['ClusterName']} answers, version {settings['SLURM_VERSION']}"), True


def cluster(profile: Profile, runs: Path) -> Iterator[Check]:
    """Partitions, limits, and whether Slurm would take a job of this profile. Raises InputError when the controller is gone again."""
    found, settings = scheduler.partitions(), scheduler.configuration()
    yield from map(partition_line, found)
    yield Check("arrays", "ok", f"up to {int(settings['MaxArraySize']):,} tasks each; longer ones are split")
    on = scheduler.accounting()
    said = "on" if on else "off or not answering: the state of ended jobs is read from files, which is enough"
    yield Check("accounting", "ok" if on else "warn", said, "" if on else "nothing needs to be done")
    modes = settings.get("PreemptMode", "OFF").split(",")
    cancels = "CANCEL" in modes
    said = "pre-empted jobs are cancelled" if cancels else "; ".join(PREEMPTION.get(mode, mode) for mode in modes)
    fix = "`python launch/retry.py NAME` goes on; ask for PreemptMode=REQUEUE" if cancels else ""
    yield Check("pre-emption", "warn" if cancels else "ok", said, fix)
    yield profile_line(profile, runs)


def partition_line(partition: Partition) -> Check:
    """What a partition has."""
    gpus = f"{partition.gpus_per_node} GPU(s), " if partition.gpus_per_node else ""
    limit = "no time limit" if partition.limit_minutes is None else f"at most {partition.limit_minutes / 60:.3g} h"
    each = f"{partition.cpus_per_node} CPUs, {gpus}{partition.memory_mb / 1024:.0f} GiB each"
    said = f"{partition.usable} of {partition.nodes} nodes usable; {each}; {limit}{'; the default' if partition.default else ''}"
    name = f"partition {partition.name}"
    if partition.usable:
        return Check(name, "ok", said)
    return Check(name, "warn", said, f"`sinfo -R -p {partition.name}` says why; wait, or name another in the cluster profile")


def profile_line(profile: Profile, runs: Path) -> Check:
    """Would Slurm take a job of one node in the profile's words? Nothing is submitted."""
    change = "change the cluster profile; docs/cluster.toml shows every key"
    try:
        asked = shape(profile, nodes=1, side_by_side=1)
    except InputError as error:
        return Check("cluster profile", "fail", str(error), change)
    with tempfile.TemporaryDirectory(prefix="acsar-doctor-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(script(Unit(runs / "doctor", "joint"), asked, profile, runs / ".code" / "doctor"))
        try:
            scheduler.ask("sbatch", "--test-only", str(file))
        except InputError as error:
            return Check("cluster profile", "fail", f"Slurm would refuse a job of one node: {error}", change)
    where = f"partition {profile.partition}" if profile.partition else "the default partition"
    return Check("cluster profile", "ok", f"Slurm would take a job of one node in {where}")


def try_nodes(count: int, runs: Path, profile: Profile) -> Iterator[Check]:
    """Start one short task on each of `count` nodes: does it see the runs folder, may it write there, does its Python have the packages?"""
    place = next(path for path in [runs, *runs.parents] if path.exists())
    folder = place / f".doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        (folder / "token").write_text(folder.name)
        shape(profile, count, side_by_side=1)  # says at once what srun would wait for in vain
        yield from _asked(count, folder, profile)
    except InputError as error:
        yield Check("nodes", "fail", str(error), "--try-nodes with fewer; sinfo shows which nodes are idle")
    except OSError as error:
        yield Check("nodes", "fail", f"{place} cannot be written: {error.strerror}", "--runs names another folder")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _asked(count: int, folder: Path, profile: Profile) -> Iterator[Check]:
    told = _told(count, folder, profile)
    wrote = {host for host, state in told.items() if state in (SEEN, NO_PYTHON)}
    end = time.monotonic() + NFS_PATIENCE
    while (lost := {host for host in wrote if not (folder / host).is_file()}) and time.monotonic() < end:
        time.sleep(0.5)
    place = folder.parent
    trouble = {
        BLIND: (f"no sight of {place} as it is here", "--runs names a folder on the file system that nodes and login node share"),
        MUTE: (f"no right to write to {place}", "mount it writable there; --runs names another folder"),
        NO_PYTHON: (f"`{python_of(profile)}` does not find torch, deepspeed and submitit", "cluster profile: setup and python say how"),
    }
    for state, (said, fix) in trouble.items():
        hosts = sorted(host for host in told if (BLIND if host in lost else told[host]) == state)
        if hosts:
            yield Check("nodes", "fail", f"{', '.join(hosts)}: {said}", fix)
    if len(told) < count:
        yield Check("nodes", "fail", f"only {len(told)} of {count} node(s) answered", "sinfo -R says what is wrong with the others")
    elif set(told.values()) == {SEEN} and not lost:
        yield Check("nodes", "ok", f"{', '.join(sorted(told))} see {place}, write to it and have the packages")


def _told(count: int, folder: Path, profile: Profile) -> dict[str, str]:
    """What each node says. Raises InputError with srun's words."""
    words = ["srun", f"--immediate={QUEUE_PATIENCE}", f"--nodes={count}", "--ntasks-per-node=1", "--time=3", "--quiet", "--job-name=doctor"]
    named = {key: getattr(profile, key) for key in ("partition", "account", "qos", "constraint", "reservation")}
    words += [f"--{key}={value}" for key, value in named.items() if value]
    words += [f"--exclude={','.join(profile.exclude)}"] if profile.exclude else []
    # a folder that the nodes lack must not keep the task from starting
    words += ["--chdir=/", "bash", "-c", _task(folder, profile)]
    printed = scheduler.ask(*words, patience=QUEUE_PATIENCE + NODE_PATIENCE).splitlines()
    # a profile's setup may print lines of its own
    return {line[1]: line[2] for line in map(str.split, printed) if len(line) == 3 and line[0] == "doctor"}


def _task(folder: Path, profile: Profile) -> str:
    """The lines that a node runs; it prints "doctor HOST STATE"."""
    here = shlex.quote(str(folder))
    exports = [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    look = [
        'host=$(hostname); say() { echo "doctor $host $1"; exit 0; }',
        f'[ "$(cat {here}/token 2>/dev/null)" = {shlex.quote(folder.name)} ] || say {BLIND}',
        f'(: > {here}/"$host") 2>/dev/null || say {MUTE}',
        f"{python_of(profile)} -P -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))'"
        f" torch deepspeed submitit >/dev/null 2>&1 || say {NO_PYTHON}",
        f"say {SEEN}",
    ]
    return "\n".join([*profile.setup, *exports, *look])
