"""Weights that are fetched once, on a machine with a network, into one folder: which there are, where they lie, whether they are whole.

    ASSETS/NAME/...     the files; NAME is the asset's name with "/" written as "--"
    ASSETS/NAME.json    its manifest, written last: name, role, source, revision, and of each file bytes and sha256

ASSETS is `--assets`, else $ACSAR_ASSETS, else ~/.cache/acsar. Jobs on compute nodes only read: `locate` finds a weight file or folder that
was named by path, fetched into ASSETS, or left in the hub's own cache; `require` lists all that is missing before anything is loaded."""

import fnmatch
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from shards.errors import InputError
from shards.manifest import sha256_of, sync_folder, write_file

VARIABLE = "ACSAR_ASSETS"
HUB = "https://huggingface.co"
DETECTORS = "https://github.com/ultralytics/assets/releases/download"
RELEASE = "v8.4.0"  # of the detectors' weights
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
# of open_clip: configuration, weights, and the tokenizers of towers that have another one than CLIP's
TOWER = ("open_clip_config.json", "open_clip_model.safetensors", "*token*.json", "vocab.*", "merges.txt", "*.model")
MODEL = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")  # no pickle, and no code: native classes need none
CHUNK = 1 << 20
TRIES = 4
PATIENCE = 60.0  # seconds without a byte

Role = Literal["detector", "captioner", "text"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asset:
    """Something to fetch: a repository of the hub, or one file of the detectors' release.

    name      a repository (owner/name), or a detector's file name
    revision  branch, tag or commit of the repository; the release of a detector
    files     patterns of the files that are needed"""

    name: str
    role: Role
    revision: str = "main"
    files: tuple[str, ...] = MODEL


@dataclass(frozen=True)
class Manifest:
    """What was fetched: one per asset."""

    name: str
    role: str
    source: str
    revision: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path below the asset's folder -> bytes, sha256


@dataclass(frozen=True)
class Found:
    """A file or folder of weights that a job may load, and the revision it is known to be ("" = not known)."""

    path: Path
    revision: str = ""


DETECTOR = Asset("yolov5mu.pt", "detector", RELEASE, ("yolov5mu.pt",))
CAPTIONER = Asset("thisisiron/Ovis2-8B-hf", "captioner")
TEXT = Asset("timm/vit_base_patch32_clip_224.openai", "text", files=TOWER)


def assets_folder(given: Path | None = None) -> Path:
    """The folder of all weights."""
    return (given or Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "acsar")).expanduser().resolve()


def offline() -> None:
    """Switch off every library's downloads in this process; call it before they are imported."""
    os.environ.update(OFFLINE)


# --- on compute nodes: reading only


def locate(name: str, assets: Path | None = None) -> Found | None:
    """Where the weights of this name lie: a path as typed, ASSETS, the hub's cache, in this order; None when nowhere.

    Only names and sizes are looked at (`check` reads every byte). InputError when what is there is not whole, naming the file."""
    if Path(name).expanduser().exists():
        path = Path(name).expanduser().resolve()
        return Found(_whole(path) if path.is_dir() else path)
    folder = assets_folder(assets)
    if (manifest := _manifest(folder, name) or _manifest(folder, f"{name}.pt")) is not None:
        if wrong := list(_differences(folder, manifest, read=False)):
            raise InputError("; ".join(wrong))
        path = folder / _flat(manifest.name)
        return Found(path if "/" in name else path / next(iter(manifest.files)), manifest.revision)
    snapshot = hub_snapshot(name) if "/" in name else None
    return Found(_whole(snapshot), snapshot.name) if snapshot else None


def require(names: Mapping[str, str], assets: Path | None = None) -> dict[str, Found]:
    """Everything that a job will load, by role. InputError listing all that is missing or not whole, one line each, and the way out."""
    found: dict[str, Found] = {}
    lines: list[str] = []
    for role, name in names.items():
        try:
            there = locate(name, assets)
        except InputError as error:
            lines.append(f"{role}: {error}")
            continue
        if there is None:
            lines.append(f"{role}: {name} is neither a path, nor in {assets_folder(assets)}, nor in the hub's cache {hub_cache()}")
        else:
            found[role] = there
    if lines:
        way = f"fetch it on a machine with a network: python launch/fetch_assets.py --assets {assets_folder(assets)}"
        raise InputError("\n".join(["weights are missing, and this job downloads nothing", *(f"  {line}" for line in lines), f"  {way}"]))
    return found


def hub_cache() -> Path:
    """Where the hub's own client keeps what it downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def hub_snapshot(repository: str) -> Path | None:
    """The newest complete-looking copy of a repository in the hub's cache: the one that `main` names, else the only one."""
    folder = hub_cache() / f"models--{_flat(repository)}"
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except OSError:
        snapshots = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
        return snapshots[0] if len(snapshots) == 1 else None
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def manifests(assets: Path | None = None) -> list[Manifest]:
    """What was fetched, by name."""
    folder = assets_folder(assets)
    read = (_read(path) for path in sorted(folder.glob("*.json")))
    return [manifest for manifest in read if manifest is not None]


def check(assets: Path | None = None) -> list[str]:
    """Read every byte of every asset: a line for each file that is missing, has another size or another sum."""
    folder = assets_folder(assets)
    return [line for manifest in manifests(folder) for line in _differences(folder, manifest, read=True)]


def _differences(folder: Path, manifest: Manifest, read: bool) -> Iterator[str]:
    again = f"fetch {manifest.name} again"
    for name, said in manifest.files.items():
        path = folder / _flat(manifest.name) / name
        if not path.is_file():
            yield f"{path} is missing; {again}"
        elif path.stat().st_size != said["bytes"]:
            yield f"{path} has {path.stat().st_size:,} bytes instead of {said['bytes']:,}; {again}"
        elif read and (found := sha256_of(path)) != said["sha256"]:
            yield f"{path} has a wrong checksum (sha256 {found}, the manifest says {said['sha256']}); {again}"


def _whole(folder: Path) -> Path:
    """A folder of weights as it is, if every part that its index names is there. InputError naming those that are not."""
    for index in sorted(folder.glob("*.index.json")):
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{index} is damaged ({error}); fetch {folder} again") from None
        if missing := [part for part in parts if not (folder / part).is_file()]:
            raise InputError(f"{folder} is not whole: {', '.join(missing)} missing; fetch it again")
    return folder


def _flat(name: str) -> str:
    return name.replace("/", "--")


def _manifest(folder: Path, name: str) -> Manifest | None:
    path = folder / f"{_flat(name)}.json"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> Manifest | None:
    """A manifest; None for other JSON that lies there. InputError when it is damaged."""
    try:
        found = json.loads(path.read_text())
        return Manifest(**found) if isinstance(found, dict) and {"name", "role", "files"} <= set(found) else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it and fetch that asset again") from None


# --- on a login node


def fetch(asset: Asset, assets: Path | None = None, say: Say = print) -> Manifest:
    """Download an asset; what is there and right is left alone, what was begun is continued. InputError naming the address that fails."""
    folder = assets_folder(assets)
    source, revision, files = _listing(asset)
    there = _manifest(folder, asset.name)
    if there is not None and there.revision == revision and not list(_differences(folder, there, read=True)):
        say(f"{asset.name}: {revision} is there")
        return there
    told: dict[str, dict[str, Any]] = {}
    for file in files:
        path = folder / _flat(asset.name) / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = f", {file.bytes / 1e6:,.1f} MB" if file.bytes is not None else ""
        say(f"{asset.name}: {file.name}{size}")
        told[file.name] = _download(file, path)
    return _record(folder, Manifest(asset.name, asset.role, source, revision, told))


def bring(asset: Asset, taken: Path, assets: Path | None = None, say: Say = print) -> Manifest:
    """Take an asset from a folder that was brought by hand: another ASSETS, a copy of a hub cache, a folder or file of the asset's name.

    Files that come with a manifest are held against it. InputError when nothing of that name lies there."""
    folder, flat = assets_folder(assets), _flat(asset.name)
    known = _manifest(taken, asset.name)
    if known is not None and (wrong := list(_differences(taken, known, read=True))):
        raise InputError("\n".join(wrong))
    cached = [path for path in sorted(taken.glob(f"models--{flat}/snapshots/*")) if path.is_dir()]
    places = [taken / flat, taken / asset.name, taken / asset.name.split("/")[-1], *cached, taken]
    found = next(((place, files) for place in places if place.is_dir() and (files := _matching(place, asset))), None)
    if found is None:
        wanted = ", ".join(asset.files)
        raise InputError(f"{taken} has no {asset.name}: looked for {wanted} in {', '.join(map(str, dict.fromkeys(places)))}")
    place, files = found
    _whole(place)
    told = {}
    for name in files:
        say(f"{asset.name}: {place / name}")
        path = folder / flat / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.resolve() != (place / name).resolve():
            beside = path.with_name(f".{path.name}.part")
            shutil.copyfile(place / name, beside)
            beside.replace(path)
        told[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    revision = known.revision if known else place.name if place in cached else ""
    source = known.source if known else f"by hand from {place}"
    return _record(folder, Manifest(asset.name, asset.role, source, revision, told))


@dataclass(frozen=True)
class _File:
    """One file of a listing; sums are None where the source does not say them. git_sha1: of small files, as git names their content."""

    name: str
    url: str
    bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None


def _listing(asset: Asset) -> tuple[str, str, list[_File]]:
    """(source, exact revision, files) of an asset."""
    if "/" not in asset.name:
        url = f"{os.environ.get('ACSAR_DETECTORS', DETECTORS)}/{asset.revision}/{urllib.parse.quote(asset.name)}"
        return url, asset.revision, [_File(asset.name, url)]
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    repository, wanted = urllib.parse.quote(asset.name), urllib.parse.quote(asset.revision, safe="")
    told = f"{hub}/api/models/{repository}/revision/{wanted}?blobs=true"
    try:
        with _open(told) as answer:
            said = json.loads(answer.read())
        commit, siblings = str(said["sha"]), list(said["siblings"])
    except (OSError, http.client.HTTPException) as error:
        otherwise = (
            "" if isinstance(error, urllib.error.HTTPError) else "; without a network bring the files and take them with --from FOLDER"
        )
        raise InputError(f"{told}: {_words(error)}{otherwise}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{told} answered with something else than a list of files ({error})") from None
    files = []
    for one in siblings:
        name = str(one["rfilename"])
        if not _fits(name, asset.files):
            continue
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{told} names a file outside of its folder: {name!r}")
        lfs = one.get("lfs") or {}
        url = f"{hub}/{repository}/resolve/{commit}/{urllib.parse.quote(name)}"
        files.append(_File(name, url, one.get("size"), lfs.get("sha256"), None if lfs else one.get("blobId")))
    if not any(file.name.endswith(".safetensors") for file in files):
        raise InputError(f"{hub}/{asset.name} has no .safetensors file among {', '.join(asset.files)}; name another repository")
    return f"{hub}/{asset.name}", commit, files


def _matching(place: Path, asset: Asset) -> list[str]:
    """Files of a folder that an asset needs, [] unless weights are among them."""
    names = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    kept = [name for name in names if _fits(name, asset.files)]
    return kept if any(name.endswith((".safetensors", ".pt")) for name in kept) else []


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Files of sub-folders are other forms of the same model (onnx, original), so only those at the top are wanted."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _record(folder: Path, manifest: Manifest) -> Manifest:
    write_file(folder / f"{_flat(manifest.name)}.json", [json.dumps(asdict(manifest), indent=1, sort_keys=True).encode(), b"\n"])
    return manifest


def _download(file: _File, path: Path) -> dict[str, Any]:
    """Bring one file to its place, going on where an earlier try stopped. InputError when it cannot be had or has a wrong checksum."""
    part = path.with_name(f".{path.name}.part")
    for attempt in range(TRIES):
        try:
            _go_on(file, part)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt == TRIES - 1 or (isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429):
                raise InputError(f"{file.url}: {_words(error)}; the same command goes on where it stopped") from None
            time.sleep(2.0**attempt / 2)
    size, sha256, git_sha1 = _sums(part)
    wrong = [
        f"{what} {found}, not {said}"
        for what, found, said in (("bytes", size, file.bytes), ("sha256", sha256, file.sha256), ("git sha1", git_sha1, file.git_sha1))
        if said is not None and found != said
    ]
    if wrong:
        part.unlink()
        raise InputError(f"{file.url} came with a wrong checksum ({'; '.join(wrong)}); it was removed, try again")
    part.replace(path)
    sync_folder(path.parent)
    return {"bytes": size, "sha256": sha256}


def _go_on(file: _File, part: Path) -> None:
    """Append to what is there what is still missing."""
    begun = part.stat().st_size if part.exists() and file.bytes is not None else 0
    if begun and begun == file.bytes:
        return
    with _open(file.url, begun) as answer, part.open("ab" if begun and answer.status == 206 else "wb") as out:
        shutil.copyfileobj(answer, out, CHUNK)
        out.flush()
        os.fsync(out.fileno())
    left = answer.length  # what the server promised and did not send
    if left:
        raise http.client.IncompleteRead(b"", left)


def _open(url: str, begin: int = 0) -> http.client.HTTPResponse:
    """The one place that talks to a network. The hub's token ($HF_TOKEN) goes to the hub only, never along a redirect."""
    request = urllib.request.Request(url, headers={"User-Agent": "acsar-suite"})
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    if (token := os.environ.get("HF_TOKEN")) and url.startswith(hub + "/"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=PATIENCE)
    return answer


def _sums(path: Path) -> tuple[int, str, str]:
    """Bytes, sha256, and the sha1 by which git names a file of this content."""
    size = path.stat().st_size
    plain, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            plain.update(chunk)
            git.update(chunk)
    return size, plain.hexdigest(), git.hexdigest()


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        reasons = {
            401: "; there is none, or it wants a token in HF_TOKEN",
            403: "; ask for access to it, and give a token in HF_TOKEN",
            404: "; there is none",
        }
        return f"HTTP {error.code}{reasons.get(error.code, '')}"
    return str(getattr(error, "reason", error)) or type(error).__name__
