"""Short videos for tests: frames that tell their number, in any container and codec."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

STEP = 5  # of grey between a frame and the next


def picture(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """[H,W,3] as grey as its number; its upper left corner is red."""
    out = np.full((height, width, 3), 8 + STEP * number, np.uint8)
    out[: height // 4, : width // 4] = (220, 20, 20)
    return out


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a picture tells."""
    return round((float(image[image.shape[0] // 2 :, image.shape[1] // 2 :].mean()) - 8) / STEP)


def film(path: Path, frames: int = 40, codec: str = "mpeg4", turned: int = 0, **settings: object) -> Path:
    """A video of picture(0), picture(1), ...; settings: of the encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=30, options={name: str(value) for name, value in settings.items()})
        first = picture(0)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 2_000_000
        if turned:
            stream.set_display_rotation(turned)
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path
