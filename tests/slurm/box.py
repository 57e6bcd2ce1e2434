"""A cluster in a box: a real Slurm with several nodes on one machine, and the ways in which it breaks.

    python tests/slurm/box.py up [--nodes 4] [--root DIR] [--no-accounting]
    eval "$(python tests/slurm/box.py env)"; srun -N4 hostname
    python tests/slurm/box.py cut n3            # and mend, kill-slurmd, kill-node, start-slurmd
    python tests/slurm/box.py down

Every node has a host name, an address, a link and an /etc/hosts of its own (UTS, network and mount namespace), so it needs root.
Boxes stand side by side: a box is a bridge acsarbrK whose alias names the box's folder; K gives it the network 10.77.K and its ports.
Only the standard library is used: it runs before anything is installed.
"""

import argparse
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server", "iproute2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db", "ip", "nsenter", "unshare")
ENABLE = f"as root: apt-get install -y {' '.join(PACKAGES)}"
TEMPLATE = Path(__file__).with_name("slurm.conf.template")
NODE_MEMORY_MB = 4000
START = 60.0  # seconds for a daemon that takes one on an idle machine
# a private disk and the node's own view of names; an unreachable name server would cost ten seconds per look-up
ENTER = """
mount --bind "$ACSAR_BOX/etc/hosts" /etc/hosts
mount --bind "$ACSAR_BOX/etc/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=256m,mode=1777 none "$ACSAR_BOX/node-local"
hostname "$1"
exec slurmd -N "$1"
"""


class BoxError(RuntimeError):
    """The box cannot do that; one line that says what is missing."""


def missing() -> str:
    """Why no box can be started here: "" when it can."""
    if os.geteuid() != 0:
        return "a cluster in a box needs root (each node gets a network of its own)"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def install() -> None:
    """Install Slurm, munge and accounting from the distribution where they are missing. Needs root and apt-get."""
    if not missing():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BoxError(f"{missing()}; {ENABLE}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *words], env=quiet, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise BoxError(f"apt-get {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    if missing():
        raise BoxError(missing())


def default_root() -> Path:
    """Where the box of `make cluster` lives."""
    return Path(tempfile.gettempdir()) / "acsar-box"


@dataclass
class Box:
    """One cluster: `nodes` nodes n1..nN with `cpus` processors and `gpus` make-believe GPUs each; partitions main and urgent.

    Jobs in main are pre-empted by jobs in urgent after `grace` seconds. Its folder `root` must be reachable by everybody."""

    root: Path = field(default_factory=default_root)
    nodes: int = 4
    cpus: int = 4
    gpus: int = 0
    accounting: bool = True
    grace: int = 40
    max_array_size: int = 1001
    owned: bool = False  # ends with the process that started it: the next sweep() takes it down

    def __post_init__(self) -> None:
        self.root = Path(self.root).absolute()

    @property
    def index(self) -> int:
        """The number that tells boxes apart. Raises BoxError when the box is down."""
        for index, root in bridges().items():
            if root == self.root:
                return index
        raise BoxError(f"no box at {self.root}; python {__file__} up --root {self.root}")

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """What a command needs to talk to this box."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def names(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.nodes + 1)]

    @property
    def address(self) -> str:
        """The login node's (this machine's) address as the nodes see it."""
        return f"10.77.{self.index}.254"

    @property
    def node_local(self) -> Path:
        """A path that exists everywhere and is another, empty disk on every node."""
        return self.root / "node-local"

    # --- up and down

    def up(self) -> "Box":
        """Start everything; a box that is up already stays as it is, the rest of a dead one goes first.

        Raises BoxError with the last lines of the log of what did not start."""
        install()
        if self._answers():
            return self
        self.down()
        self._folders()
        try:
            index = self._claim()
            for k in range(1, self.nodes + 1):
                self._link(index, k)
            self._configure(index)
            self._daemon("munged", *self._munge_words())
            if self.accounting:
                self._start_accounting(index)
            self._daemon("slurmctld", "slurmctld")
            self._wait(self._answers, START, "slurmctld")
            for name in self.names:
                self.start_slurmd(name)
            self._wait(lambda: self.idle() == self.nodes, START, f"slurmd.{self.names[0]}")
        except BaseException:
            self.down(keep_logs=True)
            raise
        return self

    def down(self, keep_logs: bool = False) -> None:
        """Stop and remove everything of this box, also what a kill left behind; nothing of any other box. May be repeated."""
        if self._answers():
            with suppress(subprocess.SubprocessError, BoxError):  # what does not end by itself is killed below
                self.run("scancel", "--user=root")
                self._wait(lambda: not self.run("squeue", "-h"), 10, "slurmctld")
        index = next((i for i, root in bridges().items() if root == self.root), None)
        for name in _namespaces(index):
            _kill(_inside(name))
        for daemon in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            _end(self._pid(daemon))
        for name in _namespaces(index):
            with suppress(BoxError):
                _ip("link", "del", name.replace("-n", "v"))  # the kernel takes its time over links in a namespace that is gone
            _ip("netns", "del", name)
        if index is not None:
            _ip("link", "del", f"acsarbr{index}")
        if keep_logs or not (self.root / "etc" / "box").is_file():
            return
        shutil.rmtree(self.root, ignore_errors=True)

    # --- breaking and mending

    def cut(self, node: str) -> None:
        """Pull the node's network cable."""
        _ip("link", "set", self._cable(node), "down")

    def mend(self, node: str) -> None:
        """Put the cable back."""
        _ip("link", "set", self._cable(node), "up")

    def kill_slurmd(self, node: str) -> None:
        """kill -9 the node's slurmd alone: what runs on the node goes on running, without a master."""
        pid = self._pid(f"slurmd.{node}")
        if pid:
            os.kill(pid, signal.SIGKILL)
            self._wait(lambda: _gone(pid), 10, f"slurmd.{node}")

    def kill_node(self, node: str) -> None:
        """kill -9 everything on the node, as a power cut does; its private disk is empty when slurmd starts again."""
        _kill(self.pids(node))

    def start_slurmd(self, node: str) -> None:
        """Start the node's slurmd; one that runs stays as it is."""
        if self._pid(f"slurmd.{node}"):
            return
        (self.root / "spool" / node).mkdir(exist_ok=True)
        enter = ["nsenter", f"--net=/run/netns/{self._namespace(node)}", "unshare", "--uts", "--mount", "sh", "-ec", ENTER, "enter", node]
        self._daemon(f"slurmd.{node}", *enter)

    def pids(self, node: str) -> list[int]:
        """Every process on the node."""
        return _inside(self._namespace(node))

    # --- looking

    def run(self, *words: str | Path, timeout: float = 60) -> str:
        """Run a command of the login node, such as squeue. Raises CalledProcessError with its words."""
        command = [str(word) for word in words]
        try:
            done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=timeout, check=True)
        except subprocess.CalledProcessError as error:
            error.add_note(f"{error.stdout}\n{error.stderr}")
            raise
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """{node: state in Slurm's words}, such as idle, alloc, down*."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t").splitlines())

    def idle(self) -> int:
        """How many nodes are idle and answer."""
        return sum(state == "idle" for state in self.states().values())

    def reset(self, patience: float = 120) -> None:
        """Mend what is broken, cancel every job, end what still runs on the nodes, and wait until all nodes are idle."""
        for node in self.names:
            self.mend(node)
            self.start_slurmd(node)
        if self.run("squeue", "-h"):
            self.run("scancel", "--user=root")
            with suppress(BoxError):
                self._wait(lambda: not self.run("squeue", "-h"), 15, "slurmctld")
        # what slurmctld gave up, or was started behind its back, may still run; what is merely ending is left to end:
        # a slurmd whose child is killed while it starts or ends a job never speaks of that job again
        with suppress(BoxError):
            self._wait(lambda: not self._strays(), 3, "slurmctld")
        _kill(self._strays())
        for node, state in self.states().items():
            if state.startswith("dr"):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
        try:
            self._wait(self._quiet, min(20, patience), "slurmctld")
        except BoxError:
            for node in (node for node, state in self.states().items() if state != "idle"):
                self.kill_slurmd(node)
                self.start_slurmd(node)
            self._wait(self._quiet, patience, "slurmctld")

    def _quiet(self) -> bool:
        return self.idle() == self.nodes and not self.run("squeue", "-h")

    def _strays(self) -> list[int]:
        """Processes on the nodes that are not slurmd itself."""
        return [pid for node in self.names for pid in self.pids(node) if pid != self._pid(f"slurmd.{node}") and not _gone(pid)]

    def logs(self, lines: int = 15) -> str:
        """The last lines of every log of the box."""
        shown = []
        for path in sorted((self.root / "log").glob("*.log")):
            last = path.read_text(errors="replace").splitlines()[-lines:]
            shown += [f"--- {path.name}", *last] if last else []
        return "\n".join(shown)

    # --- inside

    def _environment(self) -> dict[str, str]:
        return {**{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}, **self.env, "PATH": _path()}

    def _answers(self) -> bool:
        if not self.conf.is_file() or self._pid("slurmctld") is None:
            return False
        ping = subprocess.run(["scontrol", "ping"], env=self._environment(), capture_output=True, text=True, timeout=30)
        return "is UP" in ping.stdout

    def _namespace(self, node: str) -> str:
        name = f"acsar{self.index}-{node}"
        if name not in _namespaces(self.index):
            raise BoxError(f"no node {node!r}; nodes: {', '.join(n.partition('-')[2] for n in _namespaces(self.index))}")
        return name

    def _cable(self, node: str) -> str:
        return self._namespace(node).replace("-n", "v")

    def _folders(self) -> None:
        if not 1 <= self.nodes <= 200:
            raise BoxError(f"--nodes {self.nodes}: a box has 1 to 200 nodes")
        if self.root.exists() and any(self.root.iterdir()) and not (self.root / "etc" / "box").is_file():
            raise BoxError(f"{self.root} is not empty and not a box; give another --root")
        if len(str(self.root)) > 70:
            raise BoxError(f"{self.root} is too long for a socket's path; give a shorter --root")
        shutil.rmtree(self.root, ignore_errors=True)
        for name in ("etc", "munge", "state", "spool", "run", "log", "dev", "tmp", "node-local"):
            (self.root / name).mkdir(parents=True)
        for path in (self.root, *self.root.iterdir()):
            path.chmod(0o755)
        closed = [str(path) for path in self.root.parents if not path.stat().st_mode & 0o001]
        if closed:
            raise BoxError(f"{closed[0]} is closed to other users and a box must not be below it; give another --root")
        (self.root / "etc" / "box").write_text(_life(os.getpid()) if self.owned else "")

    def _claim(self) -> int:
        """Take the first free number: the bridge's name is the claim."""
        for index in range(1, 250):
            if f"10.77.{index}." in _ip("-o", "addr"):
                continue
            try:
                _ip("link", "add", f"acsarbr{index}", "type", "bridge")
            except BoxError:
                continue
            _ip("link", "set", f"acsarbr{index}", "alias", str(self.root))
            _ip("addr", "add", f"10.77.{index}.254/24", "dev", f"acsarbr{index}")
            _ip("link", "set", f"acsarbr{index}", "up")
            return index
        raise BoxError("no network 10.77.K is free, or bridges are not allowed here (ip link add acsarbr1 type bridge)")

    def _link(self, index: int, k: int) -> None:
        name, cable = f"acsar{index}-n{k}", f"acsar{index}v{k}"
        _ip("netns", "add", name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", cable, "master", f"acsarbr{index}", "up")
        _ip("-n", name, "addr", "add", f"10.77.{index}.{k}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", f"10.77.{index}.254")

    def _configure(self, index: int) -> None:
        etc, host, subnet = self.root / "etc", os.uname().nodename.partition(".")[0], f"10.77.{index}"
        hosts = ["127.0.0.1 localhost", f"{subnet}.254 {host}", *(f"{subnet}.{k} n{k}" for k in range(1, self.nodes + 1))]
        (etc / "hosts").write_text("\n".join(hosts) + "\n")
        (etc / "resolv.conf").write_text("")
        (etc / "cgroup.conf").write_text("CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n")
        for g in range(self.gpus):
            os.mknod(self.root / "dev" / f"gpu{g}", 0o20666, os.makedev(1, 3))  # Slurm wants character devices
        files = f"NodeName=n[1-{self.nodes}] Name=gpu File={self.root}/dev/gpu[0-{self.gpus - 1}]\n" if self.gpus else ""
        (etc / "gres.conf").write_text(files)
        keep = [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={_port(index, 1)}",
            f"AccountingStoragePass={self.root}/munge/socket",
        ]
        values = {
            "host": host,
            "address": f"{subnet}.254",
            "port": _port(index, 0),
            "node_port": _port(index, 2),
            "subnet": subnet,
            "root": self.root,
            "first_job": int(time.time()) % 60_000_000 + 1,  # one id per second: later boxes start above
            "max_array_size": self.max_array_size,
            "nodes": self.nodes,
            "cpus": self.cpus,
            "memory": NODE_MEMORY_MB,
            "gres": f"Gres=gpu:{self.gpus}" if self.gpus else "",
            "grace": self.grace,
            "accounting": "\n".join(keep) if self.accounting else "AccountingStorageType=accounting_storage/none",
        }
        self.conf.write_text(string.Template(TEMPLATE.read_text()).substitute(values))

    def _munge_words(self) -> list[str]:
        munge = self.root / "munge"
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        pid = self.root / "run" / "munged.pid"
        places = [f"--key-file={key}", f"--socket={munge}/socket", f"--seed-file={munge}/seed", f"--pid-file={pid}"]
        return ["munged", *places, f"--log-file={self.root}/log/munged.log", "--num-threads=2"]

    def _start_accounting(self, index: int) -> None:
        data, socket, run = self.root / "mysql", self.root / "run" / "mysql", self.root / "run"
        plain = ["--no-defaults", "--user=root"]
        create = ["mariadb-install-db", *plain, f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        # a database server that starts removes temporary tables that it finds, those of another box too if they share a folder
        temporary = {"TMPDIR": str(self.root / "tmp")}
        self._daemon("mariadb-install-db", *create, **temporary)
        small = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0", "--skip-networking"]
        server = ["mariadbd", *plain, f"--datadir={data}", f"--socket={socket}", f"--pid-file={run}/mariadbd.pid", *small]
        self._background("mariadbd", *server, f"--log-error={self.root}/log/mariadbd.log", "--innodb-lock-wait-timeout=900", **temporary)
        client = ["mariadb", "--no-defaults", "-uroot", f"--socket={socket}", "-e"]
        self._wait(lambda: self._succeeds(*client, "select 1"), START, "mariadbd")
        grant = "create user slurm@localhost identified by 'slurm'; grant all on accounting.* to slurm@localhost"
        self.run(*client, f"create database accounting; {grant}")
        conf = self.root / "etc" / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self.root}/munge/socket\n"
            f"DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={_port(index, 1)}\nSlurmUser=root\nDebugLevel=info\n"
            f"LogFile={self.root}/log/slurmdbd.log\nPidFile={run}/slurmdbd.pid\n"
            "StorageType=accounting_storage/mysql\nStorageHost=localhost\nStorageUser=slurm\nStoragePass=slurm\nStorageLoc=accounting\n"
        )
        # the client library finds a private socket by this variable only
        self._daemon("slurmdbd", "slurmdbd", MYSQL_UNIX_PORT=str(socket))
        self._wait(lambda: self._succeeds("sacctmgr", "-n", "-i", "show", "cluster"), START, "slurmdbd")
        self.run("sacctmgr", "-Q", "-i", "add", "cluster", "box")

    def _succeeds(self, *words: str) -> bool:
        done = subprocess.run(words, env=self._environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
        return done.returncode == 0

    def _daemon(self, name: str, *words: str, **environment: str) -> None:
        """Start a program that puts itself in the background, and wait until it has."""
        process = self._background(name, *words, **environment)
        if process.wait(timeout=60):
            raise BoxError(f"{words[0]} does not start: {self._last_lines(name)}")

    def _background(self, name: str, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        # little of the caller's environment gets in, and what is in marks the processes as this box's
        inside = {"PATH": _path(), "HOME": "/root", "LANG": "C.UTF-8", "ACSAR_BOX": str(self.root), **self.env, **environment}
        with (self.root / "log" / f"{name}.out").open("ab") as out:
            return subprocess.Popen(words, env=inside, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

    def _pid(self, daemon: str) -> int | None:
        """The daemon's process id, None when it is not running: a number that now belongs to somebody else is not believed."""
        with suppress(OSError, ValueError):
            pid = int((self.root / "run" / f"{daemon}.pid").read_text())
            if f"ACSAR_BOX={self.root}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes() and not _gone(pid):
                return pid
        return None

    def _wait(self, condition: Callable[[], bool], seconds: float, log: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise BoxError(f"{log} is not ready after {seconds:.0f} s: {self._last_lines(log)}")
            time.sleep(0.1)

    def _last_lines(self, name: str) -> str:
        paths = [self.root / "log" / f"{name}{suffix}" for suffix in (".out", ".log")]
        return "\n".join(line for path in paths if path.is_file() for line in path.read_text(errors="replace").splitlines()[-8:])


def sweep() -> list[Path]:
    """Take down every owned box whose process is gone, such as those of a killed test session. Returns their folders."""
    swept = []
    for root in list(bridges().values()):
        owner = root / "etc" / "box"
        if owner.is_file() and owner.read_text() and not _lives(owner.read_text()):
            Box(root).down()
            swept.append(root)
    return swept


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def _port(index: int, which: int) -> int:
    return 17000 + 10 * index + which  # jobs listen above


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, env={**os.environ, "PATH": _path()}, timeout=30)
    if done.returncode:
        raise BoxError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def bridges() -> dict[int, Path]:
    """{index: folder} of every box of this machine."""
    if shutil.which("ip", path=_path()) is None:
        return {}
    links = json.loads(_ip("-j", "link", "show", "type", "bridge") or "[]")
    named = {link.get("ifname", ""): link.get("ifalias", "") for link in links}
    return {int(name[7:]): Path(alias) for name, alias in named.items() if name.startswith("acsarbr") and alias}


def _namespaces(index: int | None) -> list[str]:
    names = [line.split()[0] for line in _ip("netns", "list").splitlines()] if index is not None else []
    return sorted((name for name in names if name.startswith(f"acsar{index}-")), key=lambda name: int(name.partition("-n")[2]))


def _inside(namespace: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", namespace).split()]


def _stat(pid: int) -> list[str]:
    """The fields after the program's name in /proc/PID/stat; [] when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _gone(pid: int) -> bool:
    return _stat(pid)[:1] in ([], ["Z"], ["X"])


def _life(pid: int) -> str:
    """A process's number and start: together never used again while the machine is up."""
    return f"{pid} {_stat(pid)[19]}"


def _lives(life: str) -> bool:
    pid = int(life.split()[0])
    return not _gone(pid) and _life(pid) == life


def _end(pid: int | None) -> None:
    """SIGTERM, and SIGKILL when it stays."""
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 5
    while time.monotonic() < end and not _gone(pid):
        time.sleep(0.05)
    _kill([pid])


def _kill(pids: list[int]) -> None:
    """SIGKILL, and wait until they are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while time.monotonic() < end and not all(_gone(pid) for pid in pids):
        time.sleep(0.02)


def main(words: list[str] | None = None) -> int:
    """The command line. Exit code 2 when the box cannot do what is asked."""
    parser = argparse.ArgumentParser(description="A real Slurm with several nodes on this machine.")
    acts = parser.add_subparsers(dest="act", required=True)
    up = acts.add_parser("up", help="start it, installing Slurm from the distribution when it is missing")
    up.add_argument("--nodes", type=int, default=4)
    up.add_argument("--cpus", type=int, default=4, help="processors of a node (default 4; more than the machine has is fine)")
    up.add_argument("--gpus", type=int, default=0, help="make-believe GPUs of a node (default 0)")
    up.add_argument("--max-array-size", type=int, default=1001)
    up.add_argument("--no-accounting", dest="accounting", action="store_false", help="without slurmdbd: sacct knows nothing")
    acts.add_parser("down", help="stop it and remove everything of it")
    acts.add_parser("env", help="print the line that points Slurm's commands at it")
    breaks = {"cut": "pull a node's network cable", "mend": "put it back", "kill-slurmd": "kill -9 its slurmd, its jobs run on"}
    breaks |= {"kill-node": "kill -9 everything on it", "start-slurmd": "start its slurmd again"}
    for name, told in breaks.items():
        acts.add_parser(name, help=told).add_argument("node", help="n1, n2, ...")
    for sub in acts.choices.values():
        sub.add_argument("--root", type=Path, default=default_root(), help=f"its folder (default {default_root()})")
    given = vars(parser.parse_args(words))
    act, node = given.pop("act"), given.pop("node", "")
    try:
        return _do(Box(**given), act, node)
    except BoxError as error:
        print(error, file=sys.stderr)
        return 2


def _do(box: Box, act: str, node: str) -> int:
    if act == "up":
        began = time.monotonic()
        box.up()
        print(f"{len(box.states())} nodes are up at {box.root} ({time.monotonic() - began:.0f} s)", file=sys.stderr)
    elif act == "down":
        box.down()
    elif act != "env":
        getattr(box, act.replace("-", "_"))(node)
    if act in ("up", "env"):
        box.index  # noqa: B018 - says so when the box is down
        print(f"export SLURM_CONF={box.conf}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
