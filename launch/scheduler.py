"""What Slurm says about jobs, partitions and nodes: its commands' machine-readable words, read into dataclasses.

Commands are called directly, never through a shell, and get 10 seconds each. The controller (squeue) knows best; the accounting
(sacct) is asked only for jobs that the controller has forgotten, and may be off.
"""

import itertools
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs import InputError

PATIENCE = 10.0  # seconds for one command
QUEUE_FIELDS = "JobArrayID:|,State:|,Reason:|,NodeList:|,RestartCnt:|,TimeUsed:|,Partition:|,Name:|"
ACCOUNT_FIELDS = "JobID,State,Reason,NodeList,Submit,ElapsedRaw,Partition,JobName"
NODE_FIELDS = "%P|%N|%T|%c|%m|%G|%l|%a"
OVER = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
)
# beginnings of sinfo's node states in which a node takes no job; * behind a state: does not respond, $: reserved for maintenance
UNUSABLE = ("down", "drain", "fail", "maint", "unk", "err", "inval", "future")
# variables by which a user changes what these commands print or leave out
DIALECT = ("SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SLURM_TIME_FORMAT")


@dataclass(frozen=True)
class Job:
    """One job, or one element of an array, as Slurm knows it."""

    id: str  # 123, or 123_4 in an array
    state: str  # Slurm's long name: PENDING, RUNNING, ...
    reason: str  # why it waits or failed; "" when Slurm has none
    nodes: str  # node list as Slurm writes it, n[1-4]; "" before it started
    restarts: int
    elapsed_s: int  # of the newest start
    name: str
    partition: str


@dataclass(frozen=True)
class Partition:
    """One partition. What a node has is said for most of its nodes: the commonest number of GPUs, the least of the rest there."""

    name: str
    default: bool
    nodes: int
    usable: int  # nodes that can take jobs now or when they are free
    cpus_per_node: int
    gpus_per_node: int
    memory_mb: int
    limit_minutes: int | None  # None = no time limit
    gpu: str = ""  # the type's name, where the cluster gives it one: h100


def answers() -> bool:
    """True when a Slurm controller answers within a few seconds."""
    try:
        ask("sinfo", "--noheader")
    except InputError:
        return False
    return True


def jobs(ids: Sequence[str]) -> dict[str, Job]:
    """What Slurm knows about these jobs; an array's bare id asks for all its elements. Whom nobody knows is absent, and
    so is an element that was cancelled before it started: Slurm itself forgets it at once.

    Raises InputError when the controller does not answer; accounting that is off or gone only makes fewer jobs known."""
    asked = set(ids)
    if not asked:
        return {}
    known = _queued(asked)
    if unknown := asked - set(known):
        known = _accounted(unknown) | known
    # the accounting may show an array's last element under the array's own id for a moment
    arrays = {job.split("_")[0] for job in known if "_" in job}
    return {job: one for job, one in known.items() if job not in arrays and (job in asked or job.split("_")[0] in asked)}


def partitions() -> list[Partition]:
    """Every partition, as the controller lists them. Raises InputError with Slurm's words when it does not answer."""
    return read_partitions(ask("sinfo", "--noheader", "--Node", f"--format={NODE_FIELDS}"))


def configuration() -> dict[str, str]:
    """Slurm's configuration as `scontrol show config` prints it. Raises InputError with Slurm's words."""
    rows = (line.split("=", 1) for line in ask("scontrol", "show", "config").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in rows}


def max_array_size() -> int:
    """The most elements that an array may have (their numbers start at 0)."""
    return int(configuration()["MaxArraySize"])


def accounting() -> bool:
    """True when ended jobs can be looked up."""
    try:
        ask("sacct", "--noheader", "--allocations", "--parsable2", "--starttime=now")
    except InputError:
        return False
    return True


def cancel(ids: Sequence[str]) -> None:
    """End these jobs; those that have ended already are passed by. Raises InputError with Slurm's words when it refuses."""
    if ids:
        ask("scancel", "--quiet", *ids)


def over(state: str) -> bool:
    """True when a job in this state will never run again."""
    return state in OVER


def hosts(nodelist: str) -> list[str]:
    """Names in Slurm's short form: "n[1-3,07],m" -> n1 n2 n3 n07 m. Raises InputError when it is none."""
    names = []
    for word in re.findall(r"[^,\[\]]*(?:\[[^\]]*\][^,\[\]]*)*(?:,|$)", nodelist):
        # an outer comma ends a word; those inside brackets belong to it
        pieces = [_numbers(piece, nodelist) if i % 2 else [piece] for i, piece in enumerate(re.split(r"[\[\]]", word.removesuffix(",")))]
        names += ["".join(combination) for combination in itertools.product(*pieces)]
    return [name for name in names if name]


def ask(*words: str, patience: float = PATIENCE) -> str:
    """What a Slurm command prints. Raises InputError with its own words when it is missing, fails or takes too long."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(DIALECT)} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=patience, env=environment
        )
    except FileNotFoundError:
        raise InputError(f"{words[0]} is not on the PATH: is this a login node of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{words[0]} did not answer within {patience:.0f} s: the Slurm controller is busy or gone") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise InputError(f"{' '.join(words[:2])}: {said}")
    return done.stdout


def read_queue(text: str) -> dict[str, Job]:
    """Jobs from squeue's lines of QUEUE_FIELDS."""
    known = {}
    for line in text.splitlines():
        row = line.split("|")
        if len(row) < 9:
            continue
        job, state, reason, nodes, restarts, elapsed, partition = row[:7]
        name = "|".join(row[7:-1])  # the only field in which users may write the separator
        known[job] = Job(job, state, _said(reason), _said(nodes), int(restarts), seconds(elapsed), name, partition)
    return known


def read_accounts(text: str) -> dict[str, Job]:
    """Jobs from sacct's lines of ACCOUNT_FIELDS, duplicates included: every start is a row, the newest counts.

    Elements of an array that never started share a row, 123_[0-3]."""
    rows = [line.split("|", 7) for line in text.splitlines() if line.count("|") >= 7]
    starts: Counter[str] = Counter()
    known = {}
    for row in sorted(rows, key=lambda row: (row[4], "[" not in row[0])):  # by submission; a row of its own over a shared one
        job, state, reason, nodes, _, elapsed, partition, name = row
        for one in _elements(job):
            # "CANCELLED by 1000"
            known[one] = Job(one, state.split()[0], _said(reason), _said(nodes), starts[one], int(elapsed or 0), name, partition)
            starts[one] += 1
    return known


def read_partitions(text: str) -> list[Partition]:
    """Partitions from sinfo's lines of NODE_FIELDS, one per node and partition."""
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.count("|") == 7:
            rows.setdefault(line.split("|")[0], []).append(line.split("|"))
    found = []
    for name, nodes in rows.items():
        usable = [row for row in nodes if row[7] == "up" and _usable(row[2])]
        gpus = Counter(_gpus(row[5]) for row in usable or nodes).most_common(1)[0][0]
        like = [row for row in usable or nodes if _gpus(row[5]) == gpus]
        cpus, memory = (min(int(row[i]) for row in like) for i in (3, 4))
        limit = None if nodes[0][6] in ("infinite", "n/a") else seconds(nodes[0][6]) // 60
        gpu = next((match[1] for row in like if (match := re.search(r"(?:^|,)gpu:([^:,()]+):\d", row[5]))), "")
        found.append(Partition(name.removesuffix("*"), name.endswith("*"), len(nodes), len(usable), cpus, gpus, memory, limit, gpu))
    return sorted(found, key=lambda partition: (not partition.default, partition.name))  # sinfo's order changes with the nodes' states


def seconds(time: str) -> int:
    """Slurm's [D-][[HH:]MM:]SS in seconds; 0 for words such as INVALID."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", time)
    if match is None:
        return 0
    days, hours, minutes, rest = (int(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def _queued(ids: Iterable[str]) -> dict[str, Job]:
    bases = sorted({job.split("_")[0] for job in ids})
    try:
        return read_queue(ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(bases)}", f"--Format={QUEUE_FIELDS}"))
    except InputError as error:
        if "Invalid job id" in str(error):  # said of a single job that the controller has forgotten
            return {}
        raise


def _accounted(ids: Iterable[str]) -> dict[str, Job]:
    bases = ",".join(sorted({job.split("_")[0] for job in ids}))
    form = ("--noheader", "--allocations", "--parsable2", "--duplicates", f"--format={ACCOUNT_FIELDS}")
    try:
        known = read_accounts(ask("sacct", *form, f"--jobs={bases}"))
    except InputError:
        return {}
    # a job that the controller has forgotten neither waits nor runs, however late the accounting is
    return {job: one for job, one in known.items() if over(one.state)}


def _elements(job: str) -> list[str]:
    """123_[0-2,5%4] -> 123_0 123_1 123_2 123_5"""
    return hosts(re.sub(r"%\d+\]", "]", job))


def _numbers(ranges: str, nodelist: str) -> list[str]:
    """0-2,07 -> 0 1 2 07, as wide as they are written."""
    numbers = []
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise InputError(f"{nodelist!r} is no list of nodes as Slurm writes it, like n[1-3,7]")
        first, last = match[1], match[2] or match[1]
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def _said(word: str) -> str:
    return "" if word in ("None", "None assigned", "(null)", "N/A") else word


def _usable(state: str) -> bool:
    """sinfo's node state, like idle, mixed-, down* or idle~ (switched off until it is needed)."""
    return not state.lower().startswith(UNUSABLE) and not state.endswith(("*", "$"))


def _gpus(gres: str) -> int:
    """gpu:a100:4(S:0-1),nvme:1 -> 4"""
    counts = re.findall(r"(?:^|,)gpu(?::[^:,()]+)*?:(\d+)(?=[,(]|$)", gres)
    return sum(map(int, counts))
