"""Text features of captions: word-level or sentence-level features of an open_clip text tower, or the captioner's own, as array jobs.

OUT/plan.jsonl, attempts/, slices/   distinct captions in slices (jobs/encode_slices.py)
OUT/texts.npy, OUT/index.jsonl       all of them: a text feature store (jobs/text.py), once every slice is finished
OUT/encode.json                      counts
"""

import difflib
import hashlib
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs import assets, encode_slices
from jobs import caption_slices as slices
from jobs.caption_record import CaptionRecord, Strip
from jobs.clip_tokens import LIMIT
from jobs.clip_tokens import count_tokens as count_tokens
from jobs.encode_slices import Encoded, Encoder, Progress, Work
from jobs.run_folder import read_json, write_json
from jobs.text import INDEX, HashText, TextStore, caption_sha256, read_captions, write_rows
from shards.errors import InputError
from shards.manifest import sha256_of

if TYPE_CHECKING:
    import torch

GATHER = "gather"  # the part that comes after all slices
REPORT = "encode.json"


# --- the stage


@dataclass(frozen=True)
class EncodeText:
    """Encode captions, each distinct one once. Killed halfway, the same job goes on; finished, it does nothing."""

    captions: Path  # folder of launch/caption.py, or a .jsonl, .json or .csv file by sample key
    out: Path  # folder of the features: --text of launch/pack.py
    encoder: Literal["clip", "hash"] = "clip"  # hash: the stand-in without weights, in which no word means anything
    model: str = "ViT-B-32"  # a text tower as open_clip names it
    pretrained: str = "openai"  # its weights: a tag of open_clip's, a weight file, or a folder with open_clip_config.json
    activation: Literal["auto", "gelu", "quickgelu"] = "auto"  # of a weight file that does not say it; auto: what the tag or folder says
    # word: every token; sentence: one vector of the caption; hidden: the captioner's own features (launch/caption.py --hidden)
    level: Literal["word", "sentence", "hidden"] = "word"
    reuse: Path | None = None  # earlier features by the same encoder: what they have is taken over
    batch: int = 64  # captions at once
    precision: Literal["fp32", "bf16"] = "fp32"  # of the arithmetic; features are kept in float16
    device: str = "auto"  # cpu, cuda, cuda:1; auto: a GPU where there is one
    slice: int = 5000  # captions of a slice: what one job does between two loads of the weights
    assets: Path | None = None  # folder of weights; default: $ACSAR_ASSETS, else ~/.cache/acsar

    def __call__(self, part: str = "", progress: Progress | None = None) -> dict[str, Any]:
        """One slice by its name, GATHER (merge), or everything; what came out, with `lines` for people.

        Raises InputError for what the user can mend, such as weights that are not there."""
        assets.offline()
        if part == GATHER or self.level == "hidden":
            return self.gather()
        if part:
            return self._work(slices.read_plan(self.out)).slice(part, progress or _silent)
        plan, _ = self.plan()
        work = self._work(plan)
        before = plan.clips - sum(plan.size(name) for name in plan.unfinished)
        for name in plan.unfinished:
            before += work.slice(name, lambda count, _: progress and progress(before + count, plan.clips))["captions"]  # noqa: B023
        return self.gather()

    @property
    def on_device(self) -> bool:
        """Whether a model runs, so that a GPU is worth asking for."""
        return self.encoder == "clip" and self.level != "hidden"

    def plan(self) -> tuple[slices.Plan, list[str]]:
        """Write OUT/plan.jsonl, or find it; and what will be encoded, in lines. InputError when weights are missing, and for another
        encoder or other captions in OUT."""
        encoder = self.ready()
        texts, lines = self.texts()
        entries = [{"key": caption_sha256(text), "text": text} for text in texts]
        return slices.write_plan(self.out, {"encoder": encoder}, entries, self.slice), [*lines, f"encoder {encoder}"]

    def ready(self) -> str:
        """The encoder's name. InputError when it cannot be had here: to be asked before captions are made for it."""
        self.check()
        if self.level == "hidden":
            return self.level
        return HashText.encoder if self.encoder == "hash" else weights_of(self).name(self)

    def foretell(self) -> dict[str, Any]:
        """What would be encoded; nothing is written."""
        self.check()
        if self.level == "hidden":
            found, encoder = hidden_states(self.captions)
            return {
                "captions": len(found),
                "slices": 0,
                "lines": [f"features of {len(found)} samples by {encoder}", f"features: {self.out}"],
            }
        texts, lines = self.texts()
        count = -(-len(texts) // self.slice)
        lines.append(f"{count} slices of {min(self.slice, len(texts))} captions")
        try:
            lines.append(f"encoder {self.ready()}")
        except InputError as error:
            lines.append(f"it would stop: {error}")
        return {"captions": len(texts), "slices": count, "lines": [*lines, f"features: {self.out}"]}

    def texts(self) -> tuple[list[str], list[str]]:
        """The distinct captions in the order of their sha256, and what they are, in lines."""
        captions = read_captions(self.captions)
        found = sorted({text for caption in captions.values() for text in caption.texts}, key=caption_sha256)
        given = sum(len(caption.texts) for caption in captions.values())
        lines = [f"{given} captions of {len(captions)} samples, {len(found)} distinct"]
        if self.encoder == "clip" and (long := sum(count_tokens(text) > LIMIT for text in found)):
            lines.append(f"{long} of them have more than {LIMIT} CLIP tokens: a tower of {LIMIT + 2} positions does not see their ends")
        return found, lines

    def gather(self) -> dict[str, Any]:
        """Merge the slices into a text feature store. InputError naming slices that are missing."""
        self.check()
        if self.level == "hidden":
            return self._hidden()
        plan = slices.read_plan(self.out)
        if not (self.out / INDEX).is_file():
            if missing := plan.unfinished:
                told = f"{len(missing)} of {len(plan.names)} slices are not finished (first: {missing[0]})"
                raise InputError(f"{self.out}: {told}; the command that started it goes on with them")
            write_rows(self.out, str(plan.configuration["encoder"]), encode_slices.shape_of(plan), encode_slices.rows(plan))
        encode_slices.remove_rows(plan)
        return self._report(TextStore.open(self.out))

    def _work(self, plan: slices.Plan) -> Work:
        """InputError when the features to reuse are another encoder's."""
        wanted = str(plan.configuration["encoder"])
        earlier = TextStore.open(self.reuse) if self.reuse is not None else None
        if earlier is not None and (earlier.encoder != wanted or earlier.by != "caption"):
            raise InputError(f"--reuse {self.reuse}: its features are by {earlier.encoder}, wanted is {wanted}; leave --reuse out")
        return Work(plan, lambda: self._load(wanted), earlier, self.batch)

    def _load(self, wanted: str) -> Encoder:
        """The plan's encoder. InputError when the weights here are others."""
        if self.encoder == "hash":
            return HashEncoder()
        weights = weights_of(self)
        if (found := weights.name(self)) != wanted:
            raise InputError(f"{weights.path} has a wrong checksum: it makes {found}, and {self.out} wants {wanted}")
        return Tower(self, weights)

    def _hidden(self) -> dict[str, Any]:
        """What the captioner itself kept of its captions, by sample, as a store: padded with zeros to the longest.

        InputError when OUT holds those of other captions."""
        found, encoder = hidden_states(self.captions)
        if (self.out / INDEX).is_file():
            store = TextStore.open(self.out)
            if store.encoder != encoder or set(store.rows) != set(found):
                raise InputError(f"{self.out} has features of other captions; give another --out, or remove that folder")
            return self._report(store)
        shapes = {key: np.load(path, mmap_mode="r", allow_pickle=False).shape for key, path in found.items()}
        if any(len(shape) != 2 or shape[1] != next(iter(shapes.values()))[1] for shape in shapes.values()):
            raise InputError(f"--level hidden: features in {self.captions} are of several widths; caption again with one model")
        length, width = max(shape[0] for shape in shapes.values()), next(iter(shapes.values()))[1]

        def rows() -> Iterator[tuple[str, NDArray[np.float16], int]]:
            for key in sorted(found):
                padded = np.zeros((length, width), np.float16)
                padded[: shapes[key][0]] = np.load(found[key], allow_pickle=False)
                yield key, padded, shapes[key][0]

        self.out.mkdir(parents=True, exist_ok=True)
        return self._report(write_rows(self.out, encoder, (length, width), rows(), by="key"))

    def _report(self, store: TextStore) -> dict[str, Any]:
        """Counts of the store, for people and in OUT/encode.json."""
        tokens = sorted(row.tokens for row in store.rows.values())
        lines = [f"{len(tokens)} features {list(store.shape)}, found by {store.by}: {self.out}", f"encoder {store.encoder}"]
        if store.encoder == HashText.encoder:
            lines.append("hash is a STAND-IN: its word vectors mean nothing; for results take --encoder clip")
        if store.shape[0] > 1:
            lines.append(f"valid positions: {tokens[len(tokens) // 2]} in the middle, {tokens[-1]} at most")
        report = {"out": str(self.out), "encoder": store.encoder, "shape": list(store.shape), "by": store.by, "rows": len(tokens)}
        write_json(self.out / REPORT, report)
        return {**report, "lines": lines}

    def check(self) -> None:
        """Refuse numbers and flags that cannot be meant."""
        for flag, value in (("batch", self.batch), ("slice", self.slice)):
            if value < 1:
                raise InputError(f"--{flag} {value}: at least 1 is needed")
        if self.encoder == "hash" and self.level == "sentence":
            raise InputError("--encoder hash --level sentence: the stand-in has word features only")


def hidden_states(captions: Path) -> tuple[dict[str, Path], str]:
    """Where the captioner's own features of each usable caption lie, by sample key, and the name of who made them.

    InputError when the folder has none, or lacks some."""
    if not (captions / slices.PLAN).is_file():
        raise InputError(f"--level hidden: {captions} is no folder of launch/caption.py --hidden")
    plan = slices.read_plan(captions)
    usable = set(read_captions(captions))
    found: dict[str, Path] = {}
    makers: set[str] = set()
    for name in plan.names:
        for value in slices.read_slice(captions, name):
            record = CaptionRecord.of(value, str(slices.final(captions, name)))
            if record.key in usable:
                found[record.key] = slices.hidden_path(captions, name, record.key)
                makers.add(" ".join(filter(None, (record.captioner, record.model, record.revision, "hidden"))))
    missing = [key for key, path in found.items() if not path.is_file()]
    if missing:
        told = f"{len(missing)} of {len(found)} usable captions have none (first: {missing[0]})"
        raise InputError(f"--level hidden: {captions} has no features of the captioner: {told}; caption with --hidden")
    if len(makers) > 1:
        raise InputError(f"--level hidden: {captions} is by several captioners ({'; '.join(sorted(makers))}), whose features do not mix")
    return found, makers.pop()


@dataclass(frozen=True)
class HashEncoder:
    """The stand-in as an encoder."""

    name: str = HashText.encoder
    shape: tuple[int, int] = HashText.shape

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        made = HashText(self.name, self.shape)
        return [Encoded(made(text), made.tokens(text)) for text in texts]


# --- the tower


@dataclass(frozen=True)
class Weights:
    """Weights of a tower on this machine: how open_clip is asked for them, the file and its sum, and whether they want QuickGELU.

    OpenAI's, MetaCLIP's and LAION-400M's weights do. open_clip itself only warns when it builds the other activation around them, and
    then its features are wrong."""

    model: str  # "ViT-B-32", or "local-dir:FOLDER", which brings its own configuration
    path: Path
    sha256: str
    quick: bool

    def name(self, job: EncodeText) -> str:
        """What decides the features."""
        given = Path(job.pretrained).expanduser()
        said = given.name if given.is_dir() else f"{job.model}/{given.name if given.exists() else job.pretrained}"
        kind = "quickgelu" if self.quick else "gelu"
        said = "-".join(said.split())
        return f"open_clip {said} {kind} {job.level} {job.precision} sha256:{self.sha256[:16]}"


def weights_of(job: EncodeText) -> Weights:
    """Where the tower's weights lie. InputError naming what is missing, or does not fit together."""
    return _weights(job.model, job.pretrained, job.activation, job.assets)


def _weights(model: str, pretrained: str, activation: str, folder: Path | None) -> Weights:
    given = Path(pretrained).expanduser()
    if given.is_dir():
        config = given / "open_clip_config.json"
        found = next((path for name in ("open_clip_model", "model") if (path := given / f"{name}.safetensors").is_file()), None)
        if found is None or not config.is_file():
            raise InputError(f"--pretrained {pretrained}: a folder of weights has open_clip_config.json and open_clip_model.safetensors")
        quick = bool(read_json(config).get("model_cfg", {}).get("quick_gelu", False))
        if activation != "auto" and quick != (activation == "quickgelu"):
            raise InputError(f"--activation {activation}: {config} says otherwise; leave the flag out")
        summed = hashlib.sha256((sha256_of(config) + sha256_of(found)).encode()).hexdigest()
        return Weights(f"local-dir:{given.resolve()}", found, summed, quick)
    clip = clip_library()
    known = clip.get_model_config(model)
    if known is None:
        raise InputError(f"--model {model}: open_clip has no such model; it has {', '.join(_near(model, clip.list_models()))} and others")
    own = bool(known.get("quick_gelu", False))
    if given.is_file():
        if activation == "auto" and not own and f"{model}-quickgelu" in clip.list_models():
            raise InputError(
                f"--pretrained {pretrained}: a file does not say which activation its weights want, and {model} comes with two; name it: "
                f"--activation quickgelu (OpenAI, MetaCLIP, LAION-400M) or --activation gelu (others)"
            )
        if activation == "gelu" and own:
            raise InputError(f"--activation gelu: {model} is the model with the other one; leave the flag out, or name another --model")
        return Weights(model, given.resolve(), sha256_of(given), own or activation == "quickgelu")
    tag = clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        tags = ", ".join(clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"--pretrained {pretrained}: neither a file nor weights that open_clip knows for {model} ({tags})")
    repository = str(tag.get("hf_hub", "")).strip("/")
    there = assets.require({"text tower": repository or pretrained}, folder)["text tower"].path
    path = there / assets.TOWER[1]
    if not path.is_file():
        raise InputError(f"{there} has no {assets.TOWER[1]}; fetch {repository} again: python launch/fetch_assets.py")
    summed = sha256_of(path)
    said = next((one.files.get(path.name, {}).get("sha256") for one in assets.manifests(folder) if one.name == repository), None)
    if said is not None and said != summed and path.is_relative_to(assets.assets_folder(folder)):
        raise InputError(f"{path} has a wrong checksum (sha256 {summed}, the manifest says {said}); fetch {repository} again")
    quick = bool(tag.get("quick_gelu", False)) or own
    if activation != "auto" and quick != (activation == "quickgelu"):
        raise InputError(f"--activation {activation}: {model}/{pretrained} wants the other one; leave the flag out")
    # a repository that is all there also has the tokenizer, which other towers than CLIP's do not share
    return Weights(f"local-dir:{there}" if (there / assets.TOWER[0]).is_file() else model, path, summed, quick)


def is_model(name: str) -> bool:
    """Is this a model that open_clip knows?"""
    return name in clip_library().list_models()


def repository_of(model: str, pretrained: str) -> str:
    """The hub's repository of a tower's weights, as open_clip knows it. InputError when it knows none."""
    tag = clip_library().get_pretrained_cfg(model, pretrained)
    if not tag or not tag.get("hf_hub"):
        raise InputError(f"{model}/{pretrained}: open_clip knows no such weights on the hub")
    return str(tag["hf_hub"]).strip("/")


class Tower:
    """A text tower of open_clip as an encoder: texts -> [L,D] of every token, after the last layer's norm, or [1,D] of the sentence.

    Word level is what comes out of the transformer after its final LayerNorm; at the end token, times text_projection, it is the
    sentence feature before normalisation. Positions after the end token are given as CLIP computes them, as nobody trained them."""

    def __init__(self, job: EncodeText, weights: Weights) -> None:
        import torch

        self.job, self.name = job, weights.name(job)
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if job.device == "auto" else job.device)
        self.model = load(weights, self.device)
        self.tokenizer = tokenizer_of(weights)
        first = self(["a"])[0].features
        self.shape = (int(first.shape[0]), int(first.shape[1]))

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        """Features of some texts in order, on their way through the tower at once."""
        import torch

        ids = self.tokenizer(list(texts)).to(self.device)
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.precision == "bf16")
        with torch.inference_mode(), bf16:
            features = word_features(self.model, ids) if self.job.level == "word" else self.model.encode_text(ids)[:, None]
        valid = end_positions(self.tokenizer, ids) + 1 if self.job.level == "word" else torch.ones(len(ids), dtype=torch.long)
        kept = features.float().cpu().numpy()
        if not np.isfinite(kept).all() or np.abs(kept).max(initial=0) > np.finfo(np.float16).max:
            raise InputError(f"{self.name}: its features are not finite in float16; are these the right weights, and the right activation?")
        return [Encoded(one, int(count)) for one, count in zip(kept.astype(np.float16), valid.tolist(), strict=True)]


def load(weights: Weights, device: "torch.device") -> Any:
    """open_clip's model with these weights, ready to be asked. InputError when they do not fit it."""
    clip = clip_library()
    folder = weights.model.startswith("local-dir:")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the activation, which is decided here
            model = clip.create_model(
                weights.model, None if folder else str(weights.path), force_quick_gelu=weights.quick, device=device, pretrained_text=False
            )
    except Exception as error:  # open_clip raises what it stumbles on, assertions and pickle's own errors among it
        words = str(error).strip().splitlines()
        old = (
            "; OpenAI's own .pt files hold programs: take open_clip_model.safetensors of the same weights"
            if _is_program(weights.path)
            else ""
        )
        raise InputError(
            f"{weights.path} cannot be loaded as {weights.model} ({words[0] if words else type(error).__name__}){old}"
        ) from None
    return model.eval()


def parts_of(strip: Strip) -> list[NDArray[np.uint8]]:
    """The frames of a strip, cut apart again: each is as wide as its box is beside its height."""
    shares = np.cumsum([(x2 - x1) / (y2 - y1) for x1, y1, x2, y2 in strip.boxes])
    cuts = np.round(shares / shares[-1] * strip.image.shape[1]).astype(int)
    return [strip.image[:, begin:end] for begin, end in zip([0, *cuts], cuts)]


def tokenizer_of(weights: Weights) -> Any:
    """open_clip's tokenizer of a tower. InputError where its files are not on this machine."""
    try:
        return clip_library().get_tokenizer(weights.model)
    except Exception as error:  # of transformers, which looks for files in several places
        words = str(error).strip().splitlines()
        told = f"the tokenizer of {weights.model} is not here ({words[0] if words else type(error).__name__})"
        raise InputError(f"{told}; fetch the whole repository: python launch/fetch_assets.py --only text --text REPOSITORY") from None


def word_features(model: Any, ids: "torch.Tensor") -> "torch.Tensor":
    """Token ids [N,L] -> [N,L,D] after the final LayerNorm. InputError for towers of which open_clip does not give them."""
    try:
        told = model.forward_intermediates(text=ids, text_indices=1, normalize_intermediates=True, normalize=False, intermediates_only=True)
    except AttributeError:
        raise InputError("open_clip gives no word features of this text tower; take --level sentence, or another --model") from None
    features: torch.Tensor = told["text_intermediates"][-1]
    return features


def end_positions(tokenizer: Any, ids: "torch.Tensor") -> "torch.Tensor":
    """Token ids [N,L] -> [N] position of the first end token; of tokenizers without one, of the last that is no padding."""
    import torch

    end = getattr(tokenizer, "eot_token_id", None)
    if end is not None:
        first: torch.Tensor = (ids == end).int().argmax(1).cpu()
        return first
    padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None) or 0
    places = torch.arange(ids.shape[1], device=ids.device)
    return ((ids != padding) * places).amax(1).cpu()


def image_text_scores(
    strips: Sequence[Strip],
    texts: Sequence[str],
    *,
    model: str = "ViT-B-32",
    pretrained: str = "openai",
    activation: Literal["auto", "gelu", "quickgelu"] = "auto",
    device: str = "cpu",
    folder: Path | None = None,
) -> list[float]:
    """How well each text fits its strip: cosine of CLIP's text feature and the mean of the features of the strip's frames.

    Frames are seen one by one, since CLIP's square picture would show the middle of a strip only. folder: of the weights.
    InputError when the weights are missing (then there is no score to show)."""
    import torch
    from PIL import Image

    where = torch.device(device)
    weights = _weights(model, pretrained, activation, folder)
    found = load(weights, where)
    from open_clip.transform import PreprocessCfg, image_transform_v2

    seen = image_transform_v2(PreprocessCfg(**found.visual.preprocess_cfg), is_train=False)
    tokenizer = tokenizer_of(weights)
    scores = []
    with torch.inference_mode():
        for strip, text in zip(strips, texts, strict=True):
            pictures = torch.stack([seen(Image.fromarray(np.ascontiguousarray(frame))) for frame in parts_of(strip)]).to(where)
            image = found.encode_image(pictures, normalize=True).mean(0)
            words = found.encode_text(tokenizer([text]).to(where), normalize=True)[0]
            scores.append(float(torch.nn.functional.cosine_similarity(image, words, dim=0)))
    return scores


def clip_library() -> Any:
    """open_clip, with its downloads switched off. InputError where it is not installed."""
    assets.offline()
    try:
        from jobs.torchvision_ops import mend_torchvision

        mend_torchvision()
        import open_clip
    except ImportError as error:
        raise InputError(f"text towers need open_clip ({error}): pip install -e '.[caption]'") from None
    return open_clip


def _near(model: str, models: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(model, models, n=5, cutoff=0.3) or list(models[:5])


def _is_program(path: Path) -> bool:
    """Is a .pt file an archive with code?"""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _silent(done: int, total: int) -> None: ...
