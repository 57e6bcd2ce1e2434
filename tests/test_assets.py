"""Weights: fetched from a server on this machine that speaks as the hub does, brought by hand, found, checked, and missed by name."""

import hashlib
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from jobs import assets
from jobs.assets import Asset
from shards.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOWER = Asset("owner/tower", "text")
WEIGHTS = bytes(range(256)) * 4000


@dataclass
class Hub:
    """What a fake hub has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    url: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    break_after: int = 0  # bytes; 0: never
    fail: list[int] = field(default_factory=list)  # codes of the next answers
    lie: bool = False  # sends other bytes than it lists


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append((self.path, dict(self.headers)))
        if hub.fail:
            self.send_error(hub.fail.pop(0))
        elif self.path.startswith("/api/models/owner/tower/revision/main"):
            self.answer(json.dumps({"sha": COMMIT, "siblings": [listed(name, data) for name, data in hub.files.items()]}).encode())
        elif self.path.startswith(f"/owner/tower/resolve/{COMMIT}/"):
            self.send_response(302)
            self.send_header("Location", f"{hub.url.replace('127.0.0.1', 'localhost')}/far/{self.path.rsplit('/', 1)[1]}")
            self.end_headers()
        elif self.path.startswith(("/far/", f"/{assets.RELEASE}/")):
            self.send(hub.files[self.path.rsplit("/", 1)[1]])
        else:
            self.send_error(404)

    def send(self, data: bytes) -> None:
        """A file, from where it is asked to begin; cut off in the middle where the hub is told so."""
        hub = self.hub
        data = bytes(len(data)) if hub.lie else data
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        cut, hub.break_after = hub.break_after, 0
        self.wfile.write(data[begin : begin + cut] if cut else data[begin:])
        self.close_connection = True

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def listed(name: str, data: bytes) -> dict[str, object]:
    """A file as the hub lists it: large ones by sha256, others as git names them."""
    if name.endswith(".safetensors"):
        return {"rfilename": name, "size": len(data), "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
    return {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, with a repository that also has files nobody wants."""
    found = Hub({"config.json": b"{}\n", "model.safetensors": WEIGHTS, "model.bin": b"pickle", "code.py": b"", "yolov5mu.pt": b"boxes"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": found}))
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("ACSAR_DETECTORS", found.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(assets.time, "sleep", lambda _: None)
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the hub's cache nor the assets of this machine."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path / "default"))


def quiet(_: str) -> None:
    pass


def test_a_repository_is_fetched_with_revision_and_sums_and_without_code(hub: Hub, tmp_path: Path) -> None:
    told = assets.fetch(TOWER, tmp_path, quiet)
    assert (
        told.revision == COMMIT and told.source == f"{hub.url}/owner/tower" and sorted(told.files) == ["config.json", "model.safetensors"]
    )
    assert told.files["model.safetensors"] == {"bytes": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert (tmp_path / "owner--tower" / "model.safetensors").read_bytes() == WEIGHTS
    assert assets.manifests(tmp_path) == [told] and assets.check(tmp_path) == []
    assert assets.locate("owner/tower", tmp_path) == assets.Found(tmp_path / "owner--tower", COMMIT)
    before = len(hub.asked)
    assets.fetch(TOWER, tmp_path, quiet)
    assert len(hub.asked) == before + 1, "what is there and right is not downloaded again"


def test_the_token_stays_with_the_hub(hub: Hub, tmp_path: Path) -> None:
    assets.fetch(TOWER, tmp_path, quiet)
    for path, headers in hub.asked:
        assert ("Authorization" in headers) == (not path.startswith("/far/"))
    assert "secret" not in "".join(path.read_text(errors="ignore") for path in tmp_path.rglob("*.json"))


def test_a_connection_that_breaks_is_continued(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.break_after = {"model.safetensors": WEIGHTS}, 300_000
    assets.fetch(TOWER, tmp_path, quiet)
    ranges = [headers.get("Range") for path, headers in hub.asked if path.startswith("/far/")]
    assert ranges == [None, "bytes=300000-"] and assets.check(tmp_path) == []


def test_a_busy_hub_is_asked_again_and_a_refusal_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": WEIGHTS}
    with pytest.raises(InputError, match=r"revision/nope\?blobs=true: HTTP 404; there is none"):
        assets.fetch(replace(TOWER, revision="nope"), tmp_path, quiet)
    real = assets._open
    codes = iter([200, 503, 429])  # the listing is answered, then twice not

    def opened(url: str, begin: int = 0) -> http.client.HTTPResponse:
        if (code := next(codes, 200)) != 200:
            hub.fail.append(code)
        return real(url, begin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "_open", opened)
        assets.fetch(TOWER, tmp_path, quiet)
    assert assets.check(tmp_path) == []


def test_a_wrong_checksum_is_named_and_nothing_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.lie = True
    with pytest.raises(InputError, match=r"config\.json came with a wrong checksum \(git sha1"):
        assets.fetch(TOWER, tmp_path, quiet)
    hub.files = {"model.safetensors": WEIGHTS}
    with pytest.raises(InputError, match=r"model\.safetensors came with a wrong checksum \(sha256"):
        assets.fetch(TOWER, tmp_path, quiet)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()] and assets.locate("owner/tower", tmp_path) is None


def test_a_listing_that_reaches_out_of_its_folder_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": WEIGHTS, "..": b"{}"}
    with pytest.raises(InputError, match="outside of its folder"):
        assets.fetch(replace(TOWER, files=("*",)), tmp_path, quiet)


def test_a_detector_is_one_file_found_with_and_without_its_suffix(hub: Hub, tmp_path: Path) -> None:
    told = assets.fetch(assets.DETECTOR, tmp_path, quiet)
    assert told.revision == assets.RELEASE and told.files["yolov5mu.pt"]["bytes"] == 5
    for name in ("yolov5mu", "yolov5mu.pt"):
        assert assets.locate(name, tmp_path) == assets.Found(tmp_path / "yolov5mu.pt" / "yolov5mu.pt", assets.RELEASE)


def test_damage_is_found_by_size_at_once_and_by_sum_on_request(hub: Hub, tmp_path: Path) -> None:
    assets.fetch(TOWER, tmp_path, quiet)
    path = tmp_path / "owner--tower" / "model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + b"x")
    assert assets.locate("owner/tower", tmp_path) is not None, "jobs do not read 16 GB to start"
    assert len(assets.check(tmp_path)) == 1 and "wrong checksum" in assets.check(tmp_path)[0] and str(path) in assets.check(tmp_path)[0]
    path.write_bytes(WEIGHTS[:-1])
    with pytest.raises(InputError, match=r"has 1,023,999 bytes instead of 1,024,000; fetch owner/tower again"):
        assets.locate("owner/tower", tmp_path)
    assets.fetch(TOWER, tmp_path, quiet)
    assert assets.check(tmp_path) == []


@pytest.mark.parametrize("form", ["tower", "owner--tower", "owner/tower", "models--owner--tower/snapshots/abc", "."])
def test_what_was_brought_by_hand_is_taken_in_any_usual_form(form: str, tmp_path: Path) -> None:
    place = tmp_path / "stick" / form
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(WEIGHTS)
    (place / "notes.pdf").write_bytes(b"no")
    told = assets.bring(TOWER, tmp_path / "stick", tmp_path / "assets", quiet)
    assert list(told.files) == ["model.safetensors"] and told.revision == ("abc" if "snapshots" in form else "")
    assert assets.check(tmp_path / "assets") == [] and assets.locate("owner/tower", tmp_path / "assets") is not None


def test_what_was_brought_is_held_against_its_manifest(hub: Hub, tmp_path: Path) -> None:
    assets.fetch(TOWER, tmp_path / "login", quiet)
    assert assets.bring(TOWER, tmp_path / "login", tmp_path / "here", quiet).revision == COMMIT
    (tmp_path / "login" / "owner--tower" / "config.json").write_bytes(b"[]\n")
    with pytest.raises(InputError, match="wrong checksum"):
        assets.bring(TOWER, tmp_path / "login", tmp_path / "there", quiet)
    with pytest.raises(InputError, match=r"has no other/model: looked for \*\.json"):
        assets.bring(Asset("other/model", "captioner"), tmp_path / "login", tmp_path / "there", quiet)


def test_all_that_is_missing_is_listed_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    (tmp_path / "half" / "one.safetensors").write_bytes(b"")
    names = {"detector": "yolov5mu", "captioner": str(tmp_path / "half"), "text": "owner/tower"}
    with pytest.raises(InputError) as told:
        assets.require(names, tmp_path)
    lines = str(told.value).splitlines()
    assert len(lines) == 5 and lines[1].startswith("  detector: yolov5mu is neither") and "two.safetensors missing" in lines[2]
    assert lines[3].startswith("  text: owner/tower is neither") and "python launch/fetch_assets.py --assets" in lines[4]


def test_the_hubs_own_cache_is_looked_into(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub-cache" / "models--owner--tower" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(WEIGHTS)
    assert assets.require({"text": "owner/tower"}, tmp_path) == {"text": assets.Found(snapshot, COMMIT)}


def test_a_path_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(b"")
    assert assets.locate(str(path), tmp_path) == assets.Found(path)


def test_the_command_fetches_lists_and_checks(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from launch import fetch_assets

    words = ["--assets", str(tmp_path), "--captioner", "owner/tower@main", "--detector", "yolov5mu"]
    assert fetch_assets.main([*words, "--only", "captioner,detector", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {(one["role"], one["name"], one["revision"]) for one in told["manifests"]} == {
        ("captioner", "owner/tower", COMMIT),
        ("detector", "yolov5mu.pt", assets.RELEASE),
    }
    assert fetch_assets.main(["--assets", str(tmp_path), "--check"]) == 0
    assert "whole, every byte read" in capsys.readouterr().err
    brought = tmp_path / "node"
    assert fetch_assets.main(["--assets", str(brought), "--from", str(tmp_path), *words[2:], "--only", "captioner,detector"]) == 0
    assert assets.check(brought) == [] and {manifest.revision for manifest in assets.manifests(brought)} == {COMMIT, assets.RELEASE}
    (tmp_path / "owner--tower" / "model.safetensors").write_bytes(bytes(len(WEIGHTS)))
    with pytest.raises(InputError, match=r"1 files are not what their manifests say\n  .*model.safetensors has a wrong checksum"):
        fetch_assets.main(["--assets", str(tmp_path), "--check"])
    with pytest.raises(InputError, match="--only tower: one or more of detector, captioner, text"):
        fetch_assets.main(["--only", "tower"])
    with pytest.raises(InputError, match="has no weights; fetch them with"):
        fetch_assets.main(["--assets", str(tmp_path / "empty"), "--check"])


def test_a_hub_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(
        InputError,
        match=r"http://127\.0\.0\.1:9/api/models/owner/tower/revision/main\?blobs=true: .*refused; .* take them with --from FOLDER",
    ):
        assets.fetch(TOWER, tmp_path, quiet)


def test_a_text_tower_is_named_as_open_clip_names_it() -> None:
    from launch.fetch_assets import Fetch, wanted

    def name(text: str) -> str:
        return wanted(Fetch(only=("text",), text=text))[0].name

    assert name("ViT-B-32/openai") == "timm/vit_base_patch32_clip_224.openai", "as open_clip says, but without importing it"
    assert name("ViT-B-16/openai") == "timm/vit_base_patch16_clip_224.openai" and name("owner/tower@main") == "owner/tower"
    from jobs.encode_text import repository_of

    assert repository_of("ViT-B-32", "openai") == assets.TEXT.name
    with pytest.raises(InputError, match="ViT-B-32/nobody: open_clip knows no such weights"):
        name("ViT-B-32/nobody")
