"""A finished run of tiny AC-SAR whose caption branch has really learned the captions; a few clips have another class's caption."""

from dataclasses import replace
from pathlib import Path

import torch

import acsar
from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.augment import Augmentation
from jobs import weights
from jobs.batches import choose, to_batch
from jobs.codec import encode
from jobs.pretrain import Pretrain
from jobs.run_folder import RunFolder, write_json
from jobs.text import HashText
from shards.manifest import Caption, sha256_of
from shards.pack import TextFeatures, pack
from shards.stream import PackedSet
from tests.moves import Moves

CONFIG = ACSARConfig(
    c1=8,
    width=16,
    heads=2,
    out=16,
    queue=16,
    dropout=0.0,
    augmentation=Augmentation(probability=0.0),
    weight=1.0,
    duplicate_text="positives",
)
SAID = ("the arms swing slowly", "the arms swing at a middling pace", "the arms swing fast")
WRONG = ("s1c0r00", "s3c1r02", "s5c2r01", "s9c2r04")  # training clips that the next class's caption was given to


def believing(runs: Path, steps: int = 150, permuted: bool = False, features: TextFeatures | None = None) -> tuple[Path, PackedSet]:
    """RUNS/believes, its joint stream trained for `steps`, and its packed set beside RUNS. permuted: captions by chance, not by class;
    features: of SAID, default: the stand-in `hash`."""
    source = replace(Moves(), subjects=9, per=10, noise=0.1)
    captions = {}
    for number, sample in enumerate(source.samples()):
        label = (sample.label + (sample.key in WRONG)) % 3
        captions[sample.key] = Caption(SAID[label] if not permuted else f"caption number {number * 7 % 109}", "import")
    pack(source, runs.parent / "packed", captions=captions, features=features or HashText())
    packed = PackedSet.open(runs.parent / "packed")
    job = Pretrain.of("acsar-small", packed.path, "believes", method=CONFIG, batch_size=18, steps=steps, runs=runs, streams=("joint",))
    return trained_run(job, packed), packed


def trained_run(job: Pretrain, packed: PackedSet) -> Path:
    """What pretraining leaves of the joint stream, but for the encoder, which stays as drawn: only its captions are learned."""
    method = acsar.build(CONFIG, packed.manifest["skeleton"], packed.text_shape or (0, 0), job.seed)
    assert isinstance(method, ACSAR) and method.text.beta is not None
    keys = choose(packed, job.protocol, job.seed, job.batch_size if job.aside is None else job.aside).keys
    batch = to_batch(packed.load(keys), 0, 0)
    assert batch.text is not None and batch.text_id is not None
    z_g = method.project(batch.joints, batch.frames)["g"]
    torch.nn.init.zeros_(method.text.beta.weight)  # nothing but the caption can bring the text near to the skeleton
    optimiser = torch.optim.Adam([p for p in method.text.parameters() if p is not method.text.beta.weight], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(job.steps or 0):
        rows = torch.randperm(len(keys), generator=generator)[: job.batch_size]
        loss = method.cross(z_g[rows], method.text.embed(batch.text[rows]), batch.text_id[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    folder = RunFolder(job.runs / job.name / "joint")
    facts = {
        "content_id": packed.content_id,
        "protocol": job.protocol,
        "supervision": "none",
        "benchmark": "exchange",
        "provenance": "import",
    }
    write_json(folder.config, {"job": encode(job), "stream": "joint", "facts": facts})
    weights.save_encoder(folder.encoder, method, CONFIG, packed.manifest["skeleton"], {"content_id": packed.content_id})
    weights.save_text(folder.text, method, {"content_id": packed.content_id})
    write_json(folder.result, {"status": "finished", "encoder_sha256": sha256_of(folder.encoder)})
    return job.runs / job.name
