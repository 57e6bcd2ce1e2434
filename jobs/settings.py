"""How encoders were probed, as the name of a folder: RUNS/NAME/probe/SETTING. Needs no torch."""

from typing import Literal

Schedule = Literal["official", "paper"]


def setting(protocol: str, schedule: str = "official", transfer: str = "") -> str:
    """PROTOCOL by the official schedule, PROTOCOL-paper by the paper's; transfer-SET-... on another packed set, SET being its folder's
    name."""
    name = protocol if schedule == "official" else f"{protocol}-{schedule}"
    return f"transfer-{transfer}-{name}" if transfer else name


def semi_setting(protocol: str, draw: str = "unbalanced", schedule: str = "paper", transfer: str = "") -> str:
    """The folder of RUNS/NAME/semi: PROTOCOL where labels are drawn at random and classifiers follow the paper's schedule; what differs is
    added to the name."""
    name = setting(protocol, transfer=transfer)
    return "-".join([name, *([draw] if draw != "unbalanced" else []), *([schedule] if schedule != "paper" else [])])
