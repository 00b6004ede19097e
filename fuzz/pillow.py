"""Decodes pictures with Pillow, over a pipe: the other half of src/pillow.rs.

In comes a length (u32, little-endian) and so many bytes of a picture; out go a length and so many bytes of answer: `+`, the
mode in 8 bytes, width and height (u32) and RGB pixels; or `-` and what Pillow said.
"""

import io
import struct
import sys
import warnings

from PIL import Image

LIMIT_PIXELS = 1_000_000


def answer(picture):
    try:
        image = Image.open(io.BytesIO(picture), formats=("JPEG", "PNG"))
        if image.width * image.height > LIMIT_PIXELS:
            return b"-more pixels than the limit"
        mode = image.mode.encode().ljust(8)
        rgb = image.convert("RGB")
        return b"+" + mode + struct.pack("<II", *rgb.size) + rgb.tobytes()
    except Exception as error:
        return b"-" + f"{type(error).__name__}: {error}".encode()


def main():
    warnings.simplefilter("ignore")
    pipe, out = sys.stdin.buffer, sys.stdout.buffer
    while len(head := pipe.read(4)) == 4:
        said = answer(pipe.read(struct.unpack("<I", head)[0]))
        out.write(struct.pack("<I", len(said)) + said)
        out.flush()


if __name__ == "__main__":
    main()
