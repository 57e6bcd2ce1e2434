"""Numbers that papers published, top-1 in percent: tables 2 to 5 of AC-SAR, and of its peers as those tables give them.

Li, Ma, Chen, Acta Electronica Sinica 2025, 53(11), 4116-4131, DOI 10.12263/DZXB.20250652. Each is one number of one training: the paper
gives neither seeds nor intervals. None: the paper has a dash there. Ablations: acsar/ablations.py."""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Li, Ma, Chen, Acta Electronica Sinica 2025, 53(11), 4116-4131"
BENCHMARKS: tuple[tuple[str, str], ...] = (("ntu60", "xsub"), ("ntu60", "xview"), ("ntu120", "xsub"), ("ntu120", "xset"), ("pku2", "xsub"))
"""(benchmark, protocol) of the five columns of tables 2 to 4."""
NAMES = {"ntu60": "NTU-60", "ntu120": "NTU-120", "pku1": "PKU-I", "pku2": "PKU-II"}
PROTOCOLS = {"xsub": "x-sub", "xview": "x-view", "xset": "x-set", "split": "own split"}
OURS, BASELINE = "AC-SAR", "SCD-Net"
Column = tuple[float | None, ...]

LINEAR: Mapping[str, Column] = {
    "J": (87.3, 91.8, 79.3, 80.4, 54.0),
    "B": (85.6, 88.8, 77.3, 78.5, 51.6),
    "M": (83.2, 87.7, 73.3, 74.2, 47.0),
    "J+B": (88.1, 92.3, 80.4, 81.8, 56.9),
    "J+M": (88.2, 93.0, 79.8, 81.6, 58.3),
    "B+M": (87.0, 91.2, 78.9, 79.9, 55.7),
    "J+B+M": (88.4, 93.0, 81.0, 82.2, 60.0),
}
"""Table 3: AC-SAR's linear probe, by streams fused, in the order of BENCHMARKS."""

SUBSETS = tuple(LINEAR)
SINGLE, THREE = "J", "J+B+M"
JOINT = "joint"  # the stream of tables 2 and 5


@dataclass(frozen=True)
class Peer:
    """A method of tables 2 and 4: linear probe of the joint stream, and of three streams fused, in the order of BENCHMARKS."""

    name: str
    joint: Column
    three: Column = (None,) * 5
    text: bool = False  # it pretrains with text too


PEERS = (
    Peer(BASELINE, (86.6, 91.7, 76.9, 80.1, 54.0), (87.3, None, None, None, None)),
    Peer("SCD-Net, as the paper reproduced it", (84.7, 90.9, 78.8, 79.7, 49.0)),
    Peer("UmURL", (82.3, 89.8, 73.5, 74.3, 52.1), (84.4, 91.4, 75.9, 77.2, 54.3)),
    Peer("C2VL", (84.4, 89.8, 76.0, 78.7, 52.6), (88.3, 92.8, 82.5, 84.3, 60.0), text=True),
    Peer("USDRL", (85.2, 91.7, 76.6, 78.1, 54.4), (87.1, 93.2, 79.3, 80.6, 59.7)),
    Peer("MAMP", (84.9, 89.1, 78.6, 79.1, 53.8)),
    Peer("PCM3", (83.9, 90.4, 76.5, 77.5, 51.5), (87.4, 93.1, 80.0, 81.2, 58.2)),
    Peer("MMFR", (84.9, 89.5, 77.1, 78.8, 54.4), text=True),
    Peer("ACA2Net", (86.0, 89.6, 79.1, 79.8, 53.7)),
    Peer("CMD", (79.8, 86.9, 70.3, 71.5, 43.0), (84.1, 90.9, 74.7, 76.1, 52.6)),
    Peer("Skeleton-logoCLR", (82.4, 87.2, 72.8, 73.5, 54.7), (86.1, 89.8, 79.8, 80.1, 57.7)),
    Peer("KTCL", (82.4, 89.4, 74.4, 74.5, 55.5)),
    Peer("MID-ECL", (83.9, 90.3, 75.7, 77.2, None), (87.0, 92.9, 79.4, 81.2, None)),
    Peer("ActCLR", (80.9, 86.7, 69.0, 70.5, None), (84.2, 88.8, 74.3, 75.7, None)),
    Peer("HiCLR", (78.8, 83.1, 67.3, 69.9, None), (80.4, 85.5, None, None, None)),
    Peer("AimCLR", (74.3, 79.7, 63.4, 63.4, 38.5), (78.9, 83.8, 68.2, 68.8, 39.5)),
    Peer("CrosSCLR", (72.9, 79.9, None, None, 21.2), (77.8, 83.4, 67.9, 66.7, 21.2)),
    Peer("GL-Transformer", (76.3, 83.8, 66.0, 68.7, None)),
    Peer("Colorization", (75.2, 83.1, None, None, None)),
    Peer("H-Transformer", (69.3, 72.8, None, None, None)),
)
"""Tables 2 (joint stream) and 4 (three streams)."""

FRACTIONS = (0.01, 0.05, 0.1)
SEMI_BENCHMARKS = (("ntu60", "xsub"), ("ntu60", "xview"))


@dataclass(frozen=True)
class SemiPeer:
    """A method of table 5: top-1 with 1, 5 and 10 % of the labels, by the protocol of NTU RGB+D 60."""

    name: str
    xsub: Column
    xview: Column

    def by(self, protocol: str) -> Column:
        """The three numbers of a protocol of SEMI_BENCHMARKS."""
        return self.xsub if protocol == "xsub" else self.xview


SEMI = (
    SemiPeer(OURS, (68.0, 79.3, 82.2), (64.0, 82.1, 86.0)),
    SemiPeer(BASELINE, (69.1, None, 82.2), (66.8, None, 85.8)),
    SemiPeer("SCD-Net, as the paper reproduced it", (66.0, 78.6, 81.4), (64.0, 82.1, 84.8)),
    SemiPeer("USDRL", (57.3, None, 80.2), (60.7, None, 84.0)),
    SemiPeer("UmURL", (58.1, 72.5, None), (58.3, 76.8, None)),
    SemiPeer("MID-ECL", (55.2, 74.9, 78.9), (54.9, 78.6, 82.9)),
    SemiPeer("HiCLR", (54.7, None, 82.1), (53.7, None, 84.8)),
    SemiPeer("PCM3", (53.8, None, 77.1), (53.1, None, 82.8)),
    SemiPeer("CMD", (50.6, 71.0, 75.4), (53.0, 75.3, 80.2)),
    SemiPeer("GL-Transformer", (None, None, 68.6), (None, None, 74.9)),
    SemiPeer("Colorization", (48.3, 65.7, 71.7), (52.5, 70.3, 78.9)),
    SemiPeer("ISC", (35.7, 59.6, 65.9), (38.1, 65.7, 72.5)),
)
"""Table 5."""


def linear(method: str, benchmark: str, protocol: str, subset: str = SINGLE) -> float | None:
    """The linear probe that the paper gives for AC-SAR or SCD-Net on this set: subset as in LINEAR. None where it gives none."""
    if (benchmark, protocol) not in BENCHMARKS:
        return None
    column = BENCHMARKS.index((benchmark, protocol))
    if method == OURS:
        return LINEAR[subset][column] if subset in LINEAR else None
    peer = next((peer for peer in PEERS if peer.name == method), None)
    return None if peer is None else {SINGLE: peer.joint, THREE: peer.three}.get(subset, (None,) * 5)[column]


def semi(method: str, benchmark: str, protocol: str, fraction: float) -> float | None:
    """Table 5's number of a method at a fraction of the labels, None where there is none."""
    if (benchmark, protocol) not in SEMI_BENCHMARKS or fraction not in FRACTIONS:
        return None
    found = next((peer for peer in SEMI if peer.name == method), None)
    return None if found is None else found.by(protocol)[FRACTIONS.index(fraction)]
