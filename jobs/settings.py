"""How encoders were probed, as the name of a folder: RUNS/NAME/probe/SETTING. Needs no torch."""

from typing import Literal

Schedule = Literal["official", "paper"]


def setting(protocol: str, schedule: str = "official", transfer: str = "") -> str:
    """PROTOCOL by the official schedule, PROTOCOL-paper by the paper's; transfer-SET-... on another packed set, SET being its folder's
    name."""
    name = protocol if schedule == "official" else f"{protocol}-{schedule}"
    return f"transfer-{transfer}-{name}" if transfer else name
