"""Raw skeleton files to shards to batches."""

from shards.exchange import write_exchange
from shards.normalise import NORMALISATIONS
from shards.pack import pack
from shards.protocols import PROTOCOLS
from shards.sources import open_source
from shards.stream import PackedSet, batches, epoch_order

__all__ = ["NORMALISATIONS", "PROTOCOLS", "PackedSet", "batches", "epoch_order", "open_source", "pack", "write_exchange"]
