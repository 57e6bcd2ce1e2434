"""All benchmarks, one table: python -m benchmarks [--peer PATH]. PATH: a checkout of github.com/cong-wu/SCD-Net (else "not measured")."""

import argparse
import os
from pathlib import Path

from benchmarks import (
    augmentation,
    caption_gate,
    caption_model,
    captioning,
    cluster,
    encoding,
    normalisation,
    packing,
    probing,
    streaming,
    training_step,
)
from benchmarks.table import show


def main() -> None:
    """Print every row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=os.environ.get("PEER") or None, help="checkout of the published baseline")
    peer = parser.parse_args().peer
    show(normalisation.measure(peer))
    show(augmentation.measure(peer))
    show(packing.measure())
    show(streaming.measure())
    show(training_step.measure(peer))
    show(probing.measure(peer))
    show(captioning.strips())
    show(caption_model.measure())
    show(caption_gate.measure())
    show(encoding.measure())
    show(cluster.measure())


if __name__ == "__main__":
    main()
