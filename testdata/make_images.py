"""Makes testdata/images and testdata/hostile: tiny pictures and what Pillow makes of them.

    python3 -m venv venv && venv/bin/pip install pillow numpy && venv/bin/python testdata/make_images.py

The expected results come from Pillow and NumPy alone (versions in images/cases.json), never from Feedline.
"""

import io
import json
import re
import shutil
import struct
import sys
import zlib
from pathlib import Path

import make_formats
import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps, features

HERE = Path(__file__).resolve().parent
IMAGES = HERE / "images"
HOSTILE = HERE / "hostile"
CASES = []


def scene(width, height, seed):
    """A smooth picture with edges, saturated colours and a little grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    u, v = x / width, y / height
    planes = [
        128 + 100 * np.sin(6.3 * u + seed) * np.cos(4.0 * v),
        40 + 180 * v + 30 * np.sin(25 * u),
        200 - 160 * u * v + 20 * np.cos(19 * (u + v)),
    ]
    image = np.stack(planes, axis=-1)
    image[(u - 0.35) ** 2 + (v - 0.4) ** 2 < 0.04] = (230, 30, 40)
    image[(abs(u - 0.7) < 0.12) & (abs(v - 0.65) < 0.2)] = (20, 60, 210)
    image[abs(u + v - 1.1) < 0.03] = (250, 250, 245)
    image[(v > 0.9) & ((x.astype(int) // 3) % 2 == 0)] = (5, 5, 8)
    image += rng.normal(0, 1.5, image.shape)
    return Image.fromarray(np.clip(np.round(image), 0, 255).astype(np.uint8))


def narrow(image):
    """The same picture with levels squeezed to 40..200, so that autocontrast and equalize have work to do."""
    return image.point(lambda v: 40 + v * 160 // 255)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(samples, depth, color, palette=None, transparency=None, interlace=False):
    """A PNG of (H, W, C) integer samples, written by hand: Pillow writes neither interlacing nor every depth."""
    height, width, channels = samples.shape

    def rows(part):
        out, previous = b"", None
        for at, row in enumerate(part):
            flat = row.reshape(-1)
            if depth == 16:
                packed = flat.astype(">u2").tobytes()
            elif depth == 8:
                packed = flat.astype(np.uint8).tobytes()
            else:
                bits = ((flat[:, None] >> np.arange(depth)[::-1]) & 1).astype(np.uint8).reshape(-1)
                packed = np.packbits(bits).tobytes()
            # Every other row with filter 2 (up), so that filters are covered too.
            if at % 2 and previous is not None:
                out += b"\x02" + bytes((a - b) & 255 for a, b in zip(packed, previous))
            else:
                out += b"\x00" + packed
            previous = packed
        return out

    if interlace:
        starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        data = b"".join(rows(samples[y::dy, x::dx]) for x, y, dx, dy in starts if samples[y::dy, x::dx].size)
    else:
        data = rows(samples)
    out = b"\x89PNG\r\n\x1a\n"
    out += png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlace)))
    if palette is not None:
        out += png_chunk(b"PLTE", palette)
    if transparency is not None:
        out += png_chunk(b"tRNS", transparency)
    return out + png_chunk(b"IDAT", zlib.compress(data, 9)) + png_chunk(b"IEND", b"")


def jpeg_segments(data):
    """Each marker segment of a JPEG up to its first scan: (marker, its bytes without marker and length)."""
    at = 2
    while True:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xDA:
            return


def jpeg_segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


def coarser(data, times):
    """The JPEG with all quantisation steps so many times as large, up to 255."""
    out, at = data, 2
    for marker, body in jpeg_segments(data):
        if marker == 0xDB:
            steps = bytes(body[0:1]) + bytes(min(255, times * step) for step in body[1:])
            out = out[: at + 4] + steps + out[at + 4 + len(steps):]
        at += 4 + len(body)
    return out


def jpeg_by_hand(image, factors, scans, step=6, restart=0):
    """A sequential JPEG with these sampling factors (columns, rows) of Y, Cb, Cr or four inks, and these components in each scan:
    Pillow writes only the usual ones."""
    zigzag = sorted(((r, c) for r in range(8) for c in range(8)), key=lambda p: (sum(p), p[sum(p) % 2]))
    k, n = np.mgrid[0:8, 0:8]
    dct = np.cos((2 * n + 1) * k * np.pi / 16) / 2 * np.where(k == 0, np.sqrt(0.5), 1)
    plain = io.BytesIO()
    Image.new("L", (8, 8)).save(plain, "jpeg")
    tables = [body for marker, body in jpeg_segments(plain.getvalue()) if marker == 0xC4]
    codes = []
    for table in (t[1:] for t in sorted(tables)):
        code, at, found = 0, 16, {}
        for bits in range(1, 17):
            for symbol in table[at : at + table[bits - 1]]:
                found[symbol] = format(code, f"0{bits}b")
                code += 1
            at += table[bits - 1]
            code <<= 1
        codes.append(found)

    def number(value):
        size = abs(value).bit_length()
        return size, format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else ""

    def block_bits(block, last_dc):
        size, extra = number(block[0] - last_dc)
        out, run = codes[0][size] + extra, 0
        for value in block[1:]:
            if value == 0:
                run += 1
                continue
            out += codes[1][0xF0] * (run // 16)
            size, extra = number(value)
            out += codes[1][run % 16 << 4 | size] + extra
            run = 0
        return out + (codes[1][0] if run else "")

    across, down = (max(f[axis] for f in factors) for axis in (0, 1))
    mcus = [-(-image.width // (8 * across)), -(-image.height // (8 * down))]
    blocks, real = [], []
    for plane, (h, v) in zip((image if image.mode == "CMYK" else image.convert("YCbCr")).split(), factors):
        size = (-(-image.width * h // across), -(-image.height * v // down))
        samples = np.asarray(plane.resize(size, Image.BOX)).astype(float) - 128
        whole = (8 * mcus[1] * v, 8 * mcus[0] * h)
        samples = np.pad(samples, [(0, whole[axis] - samples.shape[axis]) for axis in (0, 1)], mode="edge")
        cut = samples.reshape(whole[0] // 8, 8, whole[1] // 8, 8).transpose(0, 2, 1, 3)
        levels = np.round(dct @ cut @ dct.T / step).astype(int)
        blocks.append(np.stack([levels[..., r, c] for r, c in zigzag], -1))
        real.append([-(-s // 8) for s in size])
    frame = struct.pack(">BHHB", 8, image.height, image.width, len(factors))
    frame += b"".join(bytes([at + 1, h << 4 | v, 0]) for at, (h, v) in enumerate(factors))
    out = b"\xff\xd8" + jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    out += jpeg_segment(0xDB, b"\0" + bytes([step] * 64)) + jpeg_segment(0xC0, frame)
    out += b"".join(jpeg_segment(0xC4, table) for table in tables)
    out += jpeg_segment(0xDD, struct.pack(">H", restart)) if restart else b""
    for scan in scans:
        if len(scan) == 1:
            (at,) = scan
            order = [[(at, y, x)] for y in range(real[at][1]) for x in range(real[at][0])]
        else:
            order = [
                [(at, my * factors[at][1] + y, mx * factors[at][0] + x)
                 for at in scan for y in range(factors[at][1]) for x in range(factors[at][0])]
                for my in range(mcus[1]) for mx in range(mcus[0])
            ]
        data = b""
        for part, start in enumerate(range(0, len(order), restart or len(order))):
            data += bytes([0xFF, 0xD0 + (part - 1) % 8]) if part else b""
            last_dc, bits = {at: 0 for at in scan}, ""
            for at, y, x in sum(order[start : start + (restart or len(order))], []):
                block = [int(value) for value in blocks[at][y, x]]
                bits += block_bits(block, last_dc[at])
                last_dc[at] = block[0]
            bits += "1" * (-len(bits) % 8)
            data += int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        selectors = b"".join(bytes([at + 1, 0]) for at in scan)
        out += jpeg_segment(0xDA, bytes([len(scan)]) + selectors + b"\0\x3f\0") + data
    return out + b"\xff\xd9"


def digest(image):
    """FNV-1a, 64 bits, of the raw pixels."""
    value = 0xCBF29CE484222325
    for byte in image.tobytes():
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{value:016x}"


def save(path, image):
    image.save(IMAGES / path, optimize=True)
    return path


def case(op, source, expect, **parameters):
    CASES.append({"op": op, "source": source, "expect": expect, **parameters})


def make_png():
    folder = IMAGES / "png"
    folder.mkdir()
    rgb = np.asarray(scene(13, 9, 3)).astype(np.int64)
    grey = rgb.mean(axis=2, keepdims=True).astype(np.int64)
    alpha = (np.arange(13 * 9).reshape(9, 13, 1) * 2) % 256
    deep = rgb * 257 - (rgb % 7) * 11 * (rgb > 40)
    deep_grey = grey * 256 + 77
    palette = bytes(np.random.default_rng(5).integers(0, 256, 256 * 3, dtype=np.uint8))
    kinds = {
        "grey1": dict(samples=grey >> 7, depth=1, color=0),
        "grey2": dict(samples=grey >> 6, depth=2, color=0),
        "grey4": dict(samples=grey >> 4, depth=4, color=0),
        "grey8": dict(samples=grey, depth=8, color=0),
        "grey8_transparent": dict(samples=grey, depth=8, color=0, transparency=struct.pack(">H", int(grey[0, 0, 0]))),
        "grey16": dict(samples=deep_grey, depth=16, color=0),
        "rgb8": dict(samples=rgb, depth=8, color=2),
        "rgb8_interlaced": dict(samples=rgb, depth=8, color=2, interlace=True),
        "rgb16": dict(samples=deep, depth=16, color=2),
        "palette1": dict(samples=grey >> 7, depth=1, color=3, palette=palette[:6]),
        "palette2": dict(samples=grey >> 6, depth=2, color=3, palette=palette[:12]),
        "palette4_interlaced": dict(samples=grey >> 4, depth=4, color=3, palette=palette[:48], interlace=True),
        "palette8_transparent": dict(samples=grey, depth=8, color=3, palette=palette, transparency=bytes(range(0, 250, 5))),
        "grey_alpha8": dict(samples=np.concatenate([grey, alpha], 2), depth=8, color=4),
        "grey_alpha16": dict(samples=np.concatenate([deep_grey, alpha * 256], 2), depth=16, color=4),
        "rgba8": dict(samples=np.concatenate([rgb, alpha], 2), depth=8, color=6),
        "rgba8_interlaced": dict(samples=np.concatenate([rgb, alpha], 2), depth=8, color=6, interlace=True),
        "rgba16": dict(samples=np.concatenate([deep, alpha * 256], 2), depth=16, color=6),
    }
    files = {name: png_bytes(**arguments) for name, arguments in kinds.items()}
    # Chunks that change no pixel, where they should not stand or of a length that they should not have.
    whole_frame = struct.pack(">IIIIIHHBB", 0, 13, 9, 0, 0, 1, 10, 0, 0)
    for name, of, kind, body in (
        ("bkgd_before_plte", "palette8_transparent", b"bKGD", b"\1"),
        ("trns_before_plte", "palette4_interlaced", b"tRNS", b"\1\2"),
        ("stray_frame", "rgb8", b"fcTL", whole_frame),
        ("stray_frame_interlaced", "rgba8_interlaced", b"fcTL", whole_frame),
        ("long_sbit", "grey_alpha16", b"sBIT", bytes(9)),
    ):
        files[name] = files[of][:33] + png_chunk(kind, body) + files[of][33:]
    for name, data in files.items():
        (folder / f"{name}.png").write_bytes(data)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        if name == "grey16":  # Pillow clips 16-bit grey when it converts; Feedline takes the high byte.
            expected = np.repeat((deep_grey >> 8).astype(np.uint8), 3, axis=2)
        # Raw bytes: an expected PNG would go through the decoder under test.
        (folder / f"{name}.rgb").write_bytes(expected.tobytes())
        case("decode", f"png/{name}.png", f"png/{name}.rgb", size_px=list(expected.shape[:2]))


def make_jpeg():
    folder = IMAGES / "jpeg"
    folder.mkdir()
    image = scene(41, 31, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees: must be ignored
    cmyk = image.convert("CMYK")
    # Pillow's own conversion leaves K at 0; give it something to do.
    bands = list(cmyk.split())
    bands[3] = Image.fromarray((np.asarray(bands[0]) // 3).astype(np.uint8))
    cmyk = Image.merge("CMYK", bands)
    variants = {
        "grey": (image.convert("L"), dict(quality=85)),
        "ycbcr444": (image, dict(quality=90, subsampling=0)),
        "ycbcr422": (image, dict(quality=90, subsampling=1)),
        "ycbcr420": (image, dict(quality=90, subsampling=2)),
        "ycbcr420_coarse": (image, dict(quality=30, subsampling=2)),
        "ycbcr420_optimized": (image, dict(quality=75, subsampling=2, optimize=True)),
        "ycbcr420_restarts": (image, dict(quality=75, subsampling=2, restart_marker_blocks=2)),
        "ycbcr420_progressive": (image, dict(quality=75, subsampling=2, progressive=True)),
        "ycbcr444_progressive": (image, dict(quality=95, subsampling=0, progressive=True)),
        "grey_progressive": (image.convert("L"), dict(quality=75, progressive=True)),
        "rgb": (image, dict(quality=90, keep_rgb=True)),
        "exif_rotated": (image, dict(quality=75, exif=exif)),
        "one_pixel": (image.crop((20, 10, 21, 11)), dict(quality=90, subsampling=2)),
        "narrow": (image.crop((5, 0, 8, 31)), dict(quality=90, subsampling=2)),
        "cmyk": (cmyk, dict(quality=90)),
        "cmyk_progressive": (cmyk, dict(quality=90, progressive=True)),
    }
    for name, (picture, options) in variants.items():
        picture.save(folder / f"{name}.jpg", **options)
    # YCCK is CMYK whose Adobe segment says so: other colours, but a valid file.
    data = (folder / "cmyk.jpg").read_bytes()
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    (folder / "ycck.jpg").write_bytes(data[:at] + b"\x02" + data[at + 1:])
    # The same without the Adobe segment at all.
    segment = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[segment + 2 : segment + 4])[0]
    (folder / "cmyk_plain.jpg").write_bytes(data[:segment] + data[segment + 2 + length:])
    # What libjpeg reads though it is seldom written.
    usual, finer = ((2, 2), (1, 1), (1, 1)), ((1, 1), (2, 1), (1, 2))
    odd = {
        "scan_of_two_components": jpeg_by_hand(image, usual, [[0], [1, 2]]),
        "scan_of_two_components_first": jpeg_by_hand(image, ((2, 1), (1, 1), (2, 1)), [[0, 2], [1]], restart=2),
        "colour_finer": jpeg_by_hand(image, finer, [[0, 1, 2]]),
        "colour_finer_in_scans": jpeg_by_hand(image, ((1, 1), (2, 2), (1, 2)), [[0], [1], [2]]),
        "cmyk_odd_sampling": jpeg_by_hand(cmyk, ((1, 2), (1, 1), (1, 2), (1, 1)), [[0, 1, 2, 3]]),
        "colour_finer_scan_of_two": jpeg_by_hand(image, ((1, 2), (4, 1), (1, 1)), [[1], [0, 2]]),
    }
    for name in ("ycbcr420", "ycbcr420_progressive"):
        data = (folder / f"{name}.jpg").read_bytes()
        after = 4 + struct.unpack(">H", data[4:6])[0]
        # Markers without a segment, and lengths that leave out themselves.
        extra = b"\xff\xd3" + b"\xff\xe5\0\0" + b"\xff\xef\0\1" + b"\xff\xfe\0\0"
        odd[f"{name}_odd_markers"] = data[:after] + extra + data[after:]
    # 0xFF may stand in front of a marker any number of times.
    for name in ("ycbcr420_restarts", "scan_of_two_components_first"):
        data = odd.get(name) or (folder / f"{name}.jpg").read_bytes()
        start = data.index(b"\xff\xda")
        odd[f"{name}_filled"] = data[:start] + re.sub(b"\xff[\xd0-\xda]", lambda two: b"\xff\xff" + two[0], data[start:])
    # The steps of a component are those that stand in front of its first scan.
    data = jpeg_by_hand(image, usual, [[0], [1], [2]])
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    table = next(body for marker, body in jpeg_segments(data) if marker == 0xDB)
    other = b"\xff\xdb" + struct.pack(">H", 2 + len(table)) + table[:1] + bytes(2 * step for step in table[1:])
    odd["steps_change"] = data[: scans[1]] + other + data[scans[1] :]
    for name in ("ycbcr420_progressive", "grey_progressive"):
        data = (folder / f"{name}.jpg").read_bytes()
        starts = [at for at in range(len(data) - 1) if data[at : at + 2] in (b"\xff\xc4", b"\xff\xda")]
        for scans in (1, 2, 4):
            # The tables of a scan stand before it.
            ends = [at for at in starts if data[at + 1] == 0xDA] + [len(data) - 2]
            end = next((at for at in starts if ends[scans - 1] < at <= ends[scans]), ends[scans])
            odd[f"{name}_{scans}_scans"] = data[:end] + b"\xff\xd9"
    # Steps that no encoder would choose make sums that leave 16 bits, in blocks with and without vertical detail.
    stripes = Image.fromarray(np.tile(np.asarray(image)[:1], (31, 1, 1)))
    for name, picture in (("overflow", image), ("overflow_stripes", stripes)):
        out = io.BytesIO()
        picture.save(out, "jpeg", quality=97, subsampling=2)
        odd[name] = coarser(out.getvalue(), 90)
    for name, data in odd.items():
        (folder / f"{name}.jpg").write_bytes(data)
    for path in sorted(folder.glob("*.jpg")):
        expected = Image.open(path).convert("RGB")
        save(f"jpeg/{path.stem}.png", expected)
        case("decode", f"jpeg/{path.name}", f"jpeg/{path.stem}.png", size_px=[expected.height, expected.width])


def make_resize():
    (IMAGES / "resize").mkdir()
    picture = scene(200, 150, 2)
    source = save("resize/source.png", picture)
    small = save("resize/small.png", scene(17, 23, 4))
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}

    def add(name, source, picture, box, size, kind):
        left, top, width, height = box
        cut = picture.crop((left, top, left + width, top + height))
        expect = save(f"resize/{name}_{kind}.png", cut.resize((size[1], size[0]), filters[kind]))
        case("crop_resize", source, expect, box=box, size_px=size, filter=kind)

    for kind in filters:
        add("reduce", source, picture, [0, 0, 200, 150], [40, 40], kind)
        add("crop_reduce", source, picture, [31, 17, 120, 90], [32, 48], kind)
        add("crop_enlarge", source, picture, [150, 100, 23, 19], [40, 40], kind)
    add("tall", source, picture, [7, 0, 11, 150], [30, 30], "bilinear")
    add("same", source, picture, [50, 60, 30, 20], [20, 30], "bilinear")
    add("enlarge", small, Image.open(IMAGES / small), [0, 0, 17, 23], [48, 48], "bilinear")
    add("one_pixel", small, Image.open(IMAGES / small), [3, 4, 1, 1], [5, 7], "bilinear")

    # Parts and sizes of every kind, by digest: tall and flat ones, up to the borders, large and small factors.
    rng = np.random.default_rng(5)
    for at in range(60):
        width, height = (int(2 ** rng.uniform(0, np.log2(side + 1))) for side in picture.size)
        left, top = picture.width - width, picture.height - height
        if at % 3:
            left, top = int(rng.integers(0, left + 1)), int(rng.integers(0, top + 1))
        size, kind = [int(side) for side in rng.integers(1, 70, 2)], list(filters)[at % 2]
        cut = picture.crop((left, top, left + width, top + height)).resize((size[1], size[0]), filters[kind])
        case("crop_resize", source, None, box=[left, top, width, height], size_px=size, filter=kind, digest=digest(cut))

    def centre(picture, shorter, size):
        """Evaluation: shorter side to n, long side int(n * ratio), then centre crop with i = round((h - th) / 2)."""
        w, h = picture.size
        wide, high = (shorter, int(shorter * h / w)) if w < h else (int(shorter * w / h), shorter)
        top, left = round((high - size[0]) / 2), round((wide - size[1]) / 2)
        whole = picture.resize((wide, high), Image.BILINEAR)
        return whole.crop((left, top, left + size[1], top + size[0]))

    for source, shorter, size in [(source, 64, [64, 64]), (source, 50, [40, 32]), (small, 30, [30, 30])]:
        picture = Image.open(IMAGES / source)
        expect = save(f"resize/centre_{Path(source).stem}_{shorter}.png", centre(picture, shorter, size))
        case("resize_center_crop", source, expect, shorter_px=shorter, size_px=size)
        for shorter in sorted(int(side) for side in rng.integers(8, 90, 10))[: 10 if source == small else 5]:
            size = [int(side) for side in rng.integers(1, shorter + 1, 2)]
            cut = digest(centre(picture, shorter, size))
            case("resize_center_crop", source, None, shorter_px=shorter, size_px=size, digest=cut)


def make_color():
    (IMAGES / "color").mkdir()
    sources = {
        "scene": scene(40, 30, 6),
        "narrow": narrow(scene(40, 30, 7)),
        "flat": Image.new("RGB", (6, 5), (90, 90, 200)),
        "two_rows": scene(9, 2, 8),
    }
    for name, picture in sources.items():
        save(f"color/{name}.png", picture)
    enhance = {
        "saturation": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness, "sharpness": ImageEnhance.Sharpness,
    }
    for name, picture in sources.items():
        plain = name in ("flat", "two_rows")
        jobs = [(op, None, getattr(ImageOps, op)) for op in ("invert", "autocontrast", "equalize")]
        jobs += [("posterize", bits, lambda p, m: ImageOps.posterize(p, m)) for bits in ([5] if plain else [1, 4, 5, 8])]
        jobs += [("solarize", t, lambda p, m: ImageOps.solarize(p, m))
                 for t in ([113.77777777777777] if plain else [0.0, 28.444444444444443, 113.77777777777777, 256.0])]
        jobs += [(op, factor, lambda p, m, kind=kind: kind(p).enhance(m)) for op, kind in enhance.items()
                 for factor in ([0.3] if plain else [0.0, 0.3, 0.9, 1.0, 1.2, 1.9])]
        for op, magnitude, run in jobs:
            result = run(picture) if magnitude is None else run(picture, magnitude)
            # A picture to look at once per operation, a digest for the rest.
            CASES.append({"op": op, "source": f"color/{name}.png", "magnitude": magnitude or 0.0, "digest": digest(result)})
            if name == "scene" and magnitude in (None, 4, 0.3, 113.77777777777777):
                CASES[-1]["expect"] = save(f"color/scene_{op}.png", result)


def make_affine():
    (IMAGES / "affine").mkdir()
    grey = (128, 128, 128)
    sources = {"scene": scene(40, 30, 9), "tall": scene(21, 33, 10), "dot": scene(1, 1, 11), "line": scene(1, 12, 12)}

    def rotate(picture, degrees):
        turned = picture.convert("RGBA").rotate(degrees)
        return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert("RGB")

    for name, picture in sources.items():
        source = save(f"affine/{name}.png", picture)
        w, h = picture.size
        jobs = [("rotate", d, rotate(picture, d)) for d in [10.0, -10.0, 26.666666666666668, -30.0, 0.5, 90.0, 180.0, 145.0]]
        for m in [0.03333333333333333, 0.16666666666666666, -0.16666666666666666, 0.3, -0.3]:
            jobs.append(("shear_x", m, picture.transform((w, h), Image.AFFINE, (1, m, 0, 0, 1, 0), Image.BICUBIC, fillcolor=grey)))
            jobs.append(("shear_y", m, picture.transform((w, h), Image.AFFINE, (1, 0, 0, m, 1, 0), Image.BICUBIC, fillcolor=grey)))
        for m in [150 / 331, -150 / 331 * 4 / 9, 0.1, -0.02]:
            jobs.append(("translate_x", m, picture.transform((w, h), Image.AFFINE, (1, 0, m * w, 0, 1, 0), fillcolor=grey)))
            jobs.append(("translate_y", m, picture.transform((w, h), Image.AFFINE, (1, 0, 0, 0, 1, m * h), fillcolor=grey)))
        for op, m, result in jobs:
            CASES.append({"op": op, "source": source, "magnitude": m, "digest": digest(result)})
            if name == "scene" and (op, m) in [("rotate", -30.0), ("shear_x", 0.3), ("shear_y", -0.3), ("translate_x", 0.1)]:
                CASES[-1]["expect"] = save(f"affine/scene_{op}.png", result)


def make_normalize():
    x = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)
    x /= 255.0
    x -= np.array([0.485, 0.456, 0.406])
    x /= np.array([0.229, 0.224, 0.225])
    assert x.dtype == np.float32
    (IMAGES / "normalize.f32").write_bytes(x.T.astype("<f4").tobytes())  # (3, 256)


def make_hostile():
    jpeg = (IMAGES / "jpeg/ycbcr420.jpg").read_bytes()
    progressive = (IMAGES / "jpeg/ycbcr420_progressive.jpg").read_bytes()
    png = (IMAGES / "png/rgb8.png").read_bytes()

    def header(width, height, color=2):
        return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))

    idat = png.index(b"IDAT")
    sof = jpeg.index(b"\xff\xc0")
    scan_data = jpeg.index(b"\xff\xda") + 14
    assert b"\xff\0" in jpeg[scan_data:]
    frame = progressive.index(b"\xff\xc2")
    scan = progressive.index(b"\xff\xda")
    scan += 2 + struct.unpack(">H", progressive[scan + 2 : scan + 4])[0]
    # Where the tables of each scan but the first begin.
    starts = [at for at in range(scan, len(progressive)) if progressive[at : at + 2] == b"\xff\xc4"]
    files = {
        "zero.jpg": b"",
        "text.jpg": b"hello, I am a text file with the name of a picture\n",
        "truncated.jpg": jpeg[: len(jpeg) * 2 // 3],
        "truncated_header.jpg": jpeg[:100],
        "truncated_progressive.jpg": progressive[: len(progressive) // 2],
        "magic_only.jpg": jpeg[:3],
        "huge_header.jpg": jpeg[: sof + 5] + struct.pack(">HH", 60000, 60000) + jpeg[sof + 9:],
        "no_height.jpg": jpeg[: sof + 5] + struct.pack(">H", 0) + jpeg[sof + 7:],
        "huge_header.png": header(60000, 60000) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b""),
        "no_pixels.png": header(0, 5) + png_chunk(b"IEND", b""),
        "truncated.png": png[: len(png) * 2 // 3],
        "bad_crc.png": png[: idat + 20] + bytes([png[idat + 20] ^ 0x55]) + png[idat + 21:],
        "bad_last_crc.png": png[:-16] + bytes(b ^ 0xFF for b in png[-16:-12]) + png[-12:],
        "no_data.png": header(4, 4) + png_chunk(b"IEND", b""),
        "palette_of_7_bytes.png": header(4, 1, 3) + png_chunk(b"PLTE", bytes(range(7)))
        + png_chunk(b"IDAT", zlib.compress(bytes([0, 0, 1, 1, 0]))) + png_chunk(b"IEND", b""),
        # As many pixels as are allowed, and not one bit of them.
        "progressive_header_alone.jpg": progressive[: frame + 5] + struct.pack(">HH", 13000, 13000)
        + progressive[frame + 9 : scan] + b"\xff\xd9",
        # libjpeg passes over what is wrong in these, and the pixels are by chance what they are.
        "ff_twice_before_zero.jpg": jpeg[:scan_data] + jpeg[scan_data:].replace(b"\xff\0", b"\xff\xff\0", 1),
        "lost_scan.jpg": progressive[: starts[0]] + progressive[starts[1] :],
        "steps_change_progressive.jpg": progressive[: starts[0]] + b"\xff\xdb\0\x43\0" + b"\1" * 64 + progressive[starts[0] :],
        "too_few_rows.png": header(4, 4) + png_chunk(b"IDAT", zlib.compress(b"\0" * 13 * 2)) + png_chunk(b"IEND", b""),
    }
    for name, data in files.items():
        (HOSTILE / name).write_bytes(data)


def main():
    for folder in (IMAGES, HOSTILE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for make in (make_png, make_jpeg, make_resize, make_color, make_affine, make_normalize, make_hostile):
        make()
    make_formats.make(IMAGES, HOSTILE, scene, digest, lambda op, source, **facts: CASES.append({"op": op, "source": source, **facts}))
    made_with = {
        "pillow": PIL.__version__, "numpy": np.__version__, "libjpeg_turbo": features.version_feature("libjpeg_turbo"),
    }
    lines = ",\n".join("    " + json.dumps(c) for c in CASES)
    (IMAGES / "cases.json").write_text(f'{{\n  "made_with": {json.dumps(made_with)},\n  "cases": [\n{lines}\n  ]\n}}\n')
    total = sum(p.stat().st_size for d in (IMAGES, HOSTILE) for p in d.rglob("*") if p.is_file())
    print(f"{len(CASES)} cases, {total} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
