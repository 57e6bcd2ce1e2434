"""Videos: which clips a folder holds, frames by number in every container, and files that are none."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import caption_videos
from jobs.caption_record import VideoClip
from jobs.caption_videos import find_clips, read_frames, span, uniform_frames
from shards.errors import InputError
from shards.sources import open_source
from tests.films import film, number_of
from tests.test_pku import folder as pku_folder

FORMS = {
    "a.avi": ("mpeg4", {"g": 12}),
    "b.avi": ("mpeg4", {"g": 12, "bf": 2}),
    "c.avi": ("libx264", {"g": 10, "bf": 3}),
    "d.avi": ("mjpeg", {}),
    "e.mp4": ("libx264", {"g": 10, "bf": 3}),
    "f.mkv": ("libx264", {"g": 10, "bf": 3}),
    "g.mp4": ("libx264", {"g": 10, "bf": 3, "x264-params": "open-gop=1"}),
    "h.mpg": ("mpeg2video", {"g": 12, "bf": 2}),
    "i.webm": ("libvpx-vp9", {"g": 15, "cpu-used": 8, "deadline": "realtime"}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    return {name: film(folder / name, codec=codec, **settings) for name, (codec, settings) in FORMS.items()}


def reason_of(path: Path) -> tuple[str, str]:
    """(message, reason) of reading five frames, or a failure."""
    clip = VideoClip("k", path)
    with pytest.raises(InputError) as error:
        read_frames(clip, uniform_frames(*span(clip), 5))
    return str(error.value), error.value.reason


@pytest.mark.parametrize("name", FORMS)
def test_frames_are_those_of_decoding_everything(name: str, films: dict[str, Path]) -> None:
    clip = VideoClip("k", films[name])
    with av.open(films[name]) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert span(clip) == (0, 40) == (0, len(every))
    for numbers in ((0,), (39,), (38, 3, 38, 21), (11, 12, 13), uniform_frames(0, 40, 5), tuple(range(40))):
        found = read_frames(clip, numbers)
        assert [number_of(image) for image in found] == list(numbers)
        assert all(np.array_equal(image, every[number]) for image, number in zip(found, numbers))


@pytest.mark.parametrize(("name", "keys"), [("c.avi", (10, 28)), ("e.mp4", (10, 28)), ("f.mkv", (10, 28)), ("d.avi", (14, 35))])
def test_only_what_is_needed_is_decoded(name: str, keys: tuple[int, int], films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    numbered = caption_videos._numbered

    def counted(*args):  # type: ignore[no-untyped-def]
        for number, frame in numbered(*args):
            decoded.append(number)
            yield number, frame

    monkeypatch.setattr(caption_videos, "_numbered", counted)
    read_frames(VideoClip("k", films[name]), (14, 35))
    assert decoded == [*range(keys[0], 15), *range(keys[1], 36)]
    decoded.clear()
    assert span(VideoClip("k", films[name])) == (0, 40)
    assert not decoded


@pytest.mark.parametrize("turned", [90, 180, -90])
def test_frames_stand_upright(turned: int, tmp_path: Path) -> None:
    plain = read_frames(VideoClip("k", film(tmp_path / "plain.mp4", 2, "libx264")), [1])[0]
    image = read_frames(VideoClip("k", film(tmp_path / "turned.mp4", 2, "libx264", turned=turned)), [1])[0]
    assert np.array_equal(image, np.rot90(plain, turned // 90))


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    clip = VideoClip("k", film(tmp_path / "one.avi", 1))
    assert span(clip) == (0, 1)
    images = read_frames(clip, uniform_frames(*span(clip), 5))
    assert len(images) == 5 and all(np.array_equal(image, images[0]) for image in images)


@given(st.integers(0, 50), st.integers(1, 300), st.sampled_from([1, 3, 5, 8]))
def test_uniform_frames(start: int, length: int, k: int) -> None:
    numbers = uniform_frames(start, start + length, k)
    assert len(numbers) == k and start <= numbers[0] and numbers[-1] < start + length
    gaps = np.diff(numbers)
    assert (gaps >= length // k).all() and (gaps <= -(-length // k)).all()
    before, after = numbers[0] - start, start + length - 1 - numbers[-1]
    assert abs(before - after) <= 1


def test_uniform_frames_of_nothing() -> None:
    assert uniform_frames(0, 100, 5) == (10, 30, 50, 70, 90)
    for start, stop, k in ((3, 3, 5), (0, 10, 0)):
        with pytest.raises(ValueError, match="frames of"):
            uniform_frames(start, stop, k)


def test_ntu_names_and_names_of_ones_own(tmp_path: Path) -> None:
    for name in ("S001C001P001R001A001_rgb.avi", "deep/er/S001C002P001R001A001_rgb.avi", "my clip_rgb.MP4", ".hidden/x.avi", "._y.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    assert [clip.key for clip in find_clips(tmp_path)] == ["S001C001P001R001A001", "S001C002P001R001A001", "my clip_rgb"]
    assert all((clip.start, clip.stop) == (0, None) for clip in find_clips(tmp_path))


def test_names_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        find_clips(tmp_path / "none")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(InputError, match="no video in it"):
        find_clips(tmp_path)
    (tmp_path / "a.avi").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.mp4").touch()
    with pytest.raises(InputError, match=r"a\.mp4 and .*a\.avi are both named a"):
        find_clips(tmp_path)
    (tmp_path / "sub" / "a.mp4").rename(tmp_path / "sub" / "a.b.mp4")
    with pytest.raises(InputError, match=r"'a\.b' cannot be a key"):
        find_clips(tmp_path)
    (tmp_path / "sub" / "a.b.mp4").rename(tmp_path / "sub" / "a\x1b[31m.mp4")
    with pytest.raises(InputError, match="unprintable"):
        find_clips(tmp_path)


def test_pku_videos_are_cut_by_their_labels(tmp_path: Path) -> None:
    stems = ("A01N01-L", "A01N01-M")
    pku_folder(tmp_path, stems)
    for stem in stems:
        film(tmp_path / "RGB_VIDEO" / f"{stem}.avi", 45)
    clips = find_clips(tmp_path / "RGB_VIDEO")
    assert [clip.key for clip in clips] == [sample.key for sample in open_source(tmp_path).samples()]
    assert find_clips(tmp_path) == clips
    first = clips[0]
    assert (first.key, first.start, first.stop, first.path.name) == ("A01N01-L_C003_L001", 10, 40, "A01N01-L.avi")
    assert [number_of(image) for image in read_frames(first, uniform_frames(*span(first), 3))] == [15, 25, 35]
    with pytest.raises(InputError, match="starts at frame 50 of 45") as error:
        span(clips[1])
    assert error.value.reason == "truncated"
    assert span(VideoClip("k", first.path, 30, 60)) == (30, 45)


def test_pku_videos_without_labels(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "0002-M.avi").touch()
    with pytest.raises(InputError, match=r"0002-M\.avi: an untrimmed video of PKU-MMD, but no label/"):
        find_clips(tmp_path / "videos")
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "0003-M.txt").write_text("3,1,2,1\n")
    with pytest.raises(InputError, match=r"0002-M\.txt: missing, though"):
        find_clips(tmp_path / "videos")


def test_files_that_are_no_videos(tmp_path: Path, films: dict[str, Path]) -> None:
    avi, mp4 = films["a.avi"].read_bytes(), films["e.mp4"].read_bytes()
    hole = bytearray(mp4)
    hole[mp4.find(b"mdat") + 1000 : mp4.find(b"mdat") + 2500] = bytes(1500)
    bad = {
        "zero.avi": (b"", "Invalid data"),
        "noise.avi": (np.random.default_rng(0).bytes(5000), "Invalid data"),
        "half.avi": (avi[: len(avi) * 7 // 10], "of the 40 frames that it announces"),
        "half.mp4": (mp4[: len(mp4) // 2], "Invalid data"),
        "hole.mp4": (bytes(hole), ""),
        "codec.avi": (avi.replace(b"FMP4", b"QQQQ"), "codec is unknown"),
        "codec.mp4": (mp4.replace(b"avc1", b"qqqq"), "codec is unknown"),
    }
    for name, (data, why) in bad.items():
        (tmp_path / name).write_bytes(data)
        message, reason = reason_of(tmp_path / name)
        assert reason == "unreadable video" and why in message and str(tmp_path / name) in message and "\n" not in message
    assert reason_of(tmp_path / "absent.avi")[1] == "unreadable video"


def test_a_sound_without_pictures(tmp_path: Path) -> None:
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "no video in it" in reason_of(tmp_path / "sound.mp4")[0]


def test_a_play_list_opens_no_other_file(tmp_path: Path, films: dict[str, Path]) -> None:
    other = films["e.mp4"]
    lists = {
        "hls.avi": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n",
        "concat.avi": f"ffconcat version 1.0\nfile '{other}'\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert reason_of(tmp_path / name)[1] == "unreadable video"


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", 5)
    assert span(VideoClip("a", path)) == (0, 5)
    film(path, 9)
    assert span(VideoClip("a", path)) == (0, 9)


@pytest.mark.realdata
def test_real_clips(real_data: Path) -> None:
    clips = {clip.key: clip for clip in find_clips(real_data / "video_samples")}
    assert {key: span(clip) for key, clip in clips.items()} == {"pose_1": (0, 120), "pose_squats": (0, 65)}
    squats = read_frames(clips["pose_squats"], [0, 40])
    assert [image.shape for image in squats] == [(1280, 720, 3)] * 2 and not np.array_equal(*squats)


def test_frames_larger_than_any_camera_has(films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_videos, "_LARGEST", 64 * 48 - 1)
    path = tmp_path / "large.avi"
    path.write_bytes(films["a.avi"].read_bytes())
    assert "claims frames of 64 x 48" in reason_of(path)[0]
