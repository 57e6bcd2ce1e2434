"""Slurm's words read into jobs, partitions and hosts: texts as Slurm 22.05 printed them. The live ones: tests/slurm/test_scheduler.py."""

from pathlib import Path

import pytest

from jobs import InputError
from launch.scheduler import (
    Job,
    Partition,
    accounting,
    answers,
    ask,
    cancel,
    hosts,
    jobs,
    over,
    read_accounts,
    read_partitions,
    read_queue,
    seconds,
)

QUEUE = """\
47630784|CANCELLED|Priority||0|0:00|main|cap|pipe|
47630777|CANCELLED|job requeued in held state||1|0:00|main|a.sh|
47630778|COMPLETED|None|n[1-4]|0|0:03|main|b.sh|
47630782_4|COMPLETED|None|n1|0|0:03|main|cap-array|
47630782_1|FAILED|NonZeroExitCode|n1|0|0:03|main|cap-array|
47630780|PENDING|Resources||13|0:00|main|b.sh|
47630787_0|PENDING|JobHeldUser||0|0:00|main|cap-aheld|
47630788|RUNNING|None|n1|0|1-02:00:37|main|cap-req|
"""
ACCOUNTS = """\
47630783|FAILED|None|n1|2026-11-21T12:00:14|0|main|cap-fail
47630784|CANCELLED by 0|None|None assigned|2026-11-21T12:00:14|0|main|cap|pipe
47630786|CANCELLED by 0|Dependency|None assigned|2026-11-21T12:00:14|0|main|cap-dep
47630788|PENDING|None|None assigned|2026-11-21T12:02:50|0|main|cap-req
47630788|REQUEUED|None|n1|2026-11-21T12:00:14|98|main|cap-req
47630789|TIMEOUT|None|n2|2026-11-21T12:00:14|73|main|cap-timeout
47630782_2|COMPLETED|JobArrayTaskLimit|n1|2026-11-21T12:00:14|3|main|cap-array
47630782_[2-5%2]|CANCELLED by 0|None|None assigned|2026-11-21T12:00:14|0|main|cap-array
47630787_[0-3]|CANCELLED by 0|JobHeldUser|None assigned|2026-11-21T12:00:14|0|main|cap-aheld
"""


def test_queue() -> None:
    known = read_queue(QUEUE)
    assert len(known) == 8
    assert known["47630784"] == Job("47630784", "CANCELLED", "Priority", "", 0, 0, "cap|pipe", "main")
    assert known["47630777"].reason == "job requeued in held state"
    assert known["47630782_1"] == Job("47630782_1", "FAILED", "NonZeroExitCode", "n1", 0, 3, "cap-array", "main")
    assert known["47630780"].restarts == 13
    assert known["47630788"].elapsed_s == 26 * 3600 + 37
    assert read_queue("CLUSTER: box\n") == {}


def test_accounts_newest_start_counts() -> None:
    known = read_accounts(ACCOUNTS)
    assert known["47630783"] == Job("47630783", "FAILED", "", "n1", 0, 0, "cap-fail", "main")
    assert known["47630784"] == Job("47630784", "CANCELLED", "", "", 0, 0, "cap|pipe", "main")
    assert (known["47630788"].state, known["47630788"].restarts) == ("PENDING", 1)  # requeued: two rows
    assert known["47630789"].elapsed_s == 73


def test_accounts_of_an_array() -> None:
    known = read_accounts(ACCOUNTS)
    assert [job for job in known if job.startswith("47630787")] == [f"47630787_{i}" for i in range(4)]
    assert known["47630782_2"].state == "COMPLETED"  # its own row wins over the shared one
    assert known["47630782_5"].state == "CANCELLED"


def test_states() -> None:
    assert all(over(state) for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"))
    assert not any(
        over(state) for state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "?")
    )


def test_partitions() -> None:
    text = """\
main*|n1|allocated|4|4000|gpu:1|infinite|up
urgent|n1|allocated|4|4000|gpu:1|1-00:00:00|up
main*|n2|down*|4|4000|gpu:1|infinite|up
urgent|n2|down*|4|4000|gpu:1|1-00:00:00|up
main*|n3|idle|8|4000|gpu:1|infinite|up
main*|n4|idle*|4|4000|gpu:1|infinite|up
"""
    assert read_partitions(text) == [
        Partition("main", True, 4, 2, 4, 1, 4000, None),
        Partition("urgent", False, 2, 1, 4, 1, 4000, 1440),
    ]


@pytest.mark.parametrize(
    ("state", "usable"),
    [("idle", 1), ("mixed-", 1), ("allocated+", 1), ("idle~", 1), ("completing", 1), ("planned", 1)]
    + [(state, 0) for state in ("down", "down*", "drained", "draining", "drained*", "fail", "failing", "maint", "idle$", "unk*", "mixed*")],
)
def test_usable_nodes(state: str, usable: int) -> None:
    assert read_partitions(f"p|n1|{state}|4|4000|(null)|30:00|up\n") == [Partition("p", False, 1, usable, 4, 0, 4000, 30)]
    assert read_partitions(f"p|n1|{state}|4|4000|(null)|30:00|down\n")[0].usable == 0


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", 4),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2,gpu:v100:1,nvme:800", 3),
        ("craynetwork:4,gpu:8(S:0,3)", 8),
        ("gpu:nvidia_a100_1g.5gb:7", 7),
        ("(null)", 0),
        ("mgpu:3", 0),
    ],
)
def test_gpus_of_a_node(gres: str, gpus: int) -> None:
    assert read_partitions(f"p|n1|idle|4|4000|{gres}|30:00|up\n")[0].gpus_per_node == gpus


def test_odd_nodes_do_not_decide_what_a_partition_has() -> None:
    text = "".join(
        f"p|n{i}|idle|{cpus}|{1000 * cpus}|{gres}|30:00|up\n"
        for i, (cpus, gres) in enumerate([(2, "(null)"), (32, "gpu:4"), (16, "gpu:4")])
    )
    assert read_partitions(text) == [Partition("p", False, 3, 3, 16, 4, 16000, 30)]


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("n1", "n1"),
        ("n[1-3,7]", "n1 n2 n3 n7"),
        ("n[08-11],login", "n08 n09 n10 n11 login"),
        ("rack[1-2]-n[01-02,7],x", "rack1-n01 rack1-n02 rack1-n7 rack2-n01 rack2-n02 rack2-n7 x"),
        ("a,b[1,3]c", "a b1c b3c"),
        ("gpu-0[1-2].site.org", "gpu-01.site.org gpu-02.site.org"),
        ("", ""),
    ],
)
def test_hosts(nodelist: str, names: str) -> None:
    assert hosts(nodelist) == names.split()


def test_hosts_refuses_what_is_none() -> None:
    with pytest.raises(InputError, match="n\\[1-x\\]"):
        hosts("n[1-x]")


def test_times() -> None:
    assert [seconds(time) for time in ("0:18", "1:02:03", "2-00:00:01", "30:00", "INVALID", "45")] == [18, 3723, 172801, 1800, 0, 45]


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not answers()
    assert not accounting()
    assert jobs([]) == {}
    cancel([])  # nothing to do needs no Slurm
    with pytest.raises(InputError, match="squeue is not on the PATH"):
        jobs(["12"])


def test_a_partition_names_its_gpus() -> None:
    rows = "".join(f"p|n{i}|idle|16|4000|gpu:h100:4(S:0-1)|30:00|up\n" for i in (1, 2))
    assert read_partitions(rows) == [Partition("p", False, 2, 2, 16, 4, 4000, 30, "h100")]


def test_a_command_that_fails_or_hangs() -> None:
    with pytest.raises(InputError, match=r"ls --no-such: .*no-such"):
        ask("ls", "--no-such")
    with pytest.raises(InputError, match="sleep did not answer within 0 s"):
        ask("sleep", "60", patience=0.2)
