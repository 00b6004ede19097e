"""The part of make_images.py that makes testdata/images/formats and broken files of these formats: pictures that are neither JPEG
nor PNG, and pictures with an EXIF orientation. What Pillow does not write is written by hand; what they show, Pillow says.
"""

import io
import struct

import numpy as np
from PIL import Image, ImageOps


def tiff_bytes(samples, photometric, bits=8, order="<", tile=None, planar=False, compression=1, extra=(), colours=None, pack=None):
    """A TIFF of (H, W, C) samples: one strip or tiles, interleaved or plane by plane; `pack` compresses a part."""
    height, width, channels = samples.shape

    def packed(part):
        rows = part.reshape(part.shape[0], -1)
        if bits == 16:
            data = rows.astype(order + "u2").tobytes()
        elif bits == 8:
            data = rows.astype(np.uint8).tobytes()
        else:
            spread = (rows[:, :, None] >> np.arange(bits)[::-1]) & 1
            data = np.packbits(spread.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
        return pack(data) if pack else data

    planes = [samples[..., at : at + 1] for at in range(channels)] if planar else [samples]
    parts = []
    for plane in planes:
        if tile is None:
            parts.append(packed(plane))
            continue
        wide, high = tile
        plane = np.pad(plane, [(0, -height % high), (0, -width % wide), (0, 0)])
        for y in range(0, height, high):
            parts += [packed(plane[y : y + high, x : x + wide]) for x in range(0, width, wide)]
    out, places = b"", []
    for part in parts:
        places.append(8 + len(out))
        out += part + b"\0" * (len(part) % 2)
    lengths = [len(part) for part in parts]
    where = [(273, 4, places), (278, 4, [height]), (279, 4, lengths)]
    if tile is not None:
        where = [(322, 3, [tile[0]]), (323, 3, [tile[1]]), (324, 4, places), (325, 4, lengths)]
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [compression]), (262, 3, [photometric])]
    tags += [(277, 3, [channels]), (284, 3, [2 if planar else 1]), *where]
    tags += [(338, 3, list(extra))] if extra else []
    tags += [(320, 3, list(colours))] if colours is not None else []
    start = 8 + len(out)
    rest, entries = b"", b""
    for tag, kind, values in sorted(tags):
        data = struct.pack(order + "HI"[kind == 4] * len(values), *values)
        if len(data) > 4:
            data, rest = struct.pack(order + "I", start + 2 + 12 * len(tags) + 4 + len(rest)), rest + data
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + out + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + rest


def bmp_bytes(data, width, height, bits, compression=0, palette=b"", masks=(), header=40):
    """A BMP of these bytes of pixels."""
    if header == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    head += struct.pack(f"<{len(masks)}I", *masks) + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(data), 0, 0, 14 + len(head)) + head + data


def rows_of_4(rows):
    return b"".join(row + b"\0" * (-len(row) % 4) for row in rows)


def bmps(rgb, grey):
    height, width = grey.shape
    five = (rgb[::-1] >> 3).astype(int)
    six = five[..., 0] << 11 | (rgb[::-1, :, 1] >> 2).astype(int) << 5 | five[..., 2]
    five = five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]
    nibbles = grey >> 4
    colours = b"".join(bytes([v * 3 % 256, 255 - v, v // 2, 0]) for v in range(256))
    even = np.pad(nibbles, [(0, 0), (0, width % 2)])[::-1]
    four = rows_of_4([bytes(row[::2] << 4 | row[1::2]) for row in even])
    # Runs, literal pixels, a skip, and ends of lines that are cut.
    runs8 = b"\5\x10\0\4\1\2\3\4\4\x55\0\0" + b"\0\2\3\0\2\x77\0\0" + (b"\x0d\x42\0\0" * (height - 2)) + b"\0\1"
    runs4 = b"\5\x1f\0\5\x12\x34\x50\0\3\x9a\0\0" + (b"\x0d\x4b\0\0" * (height - 1)) + b"\0\1"
    bottom_up = lambda order: rows_of_4([row[:, order].tobytes() for row in rgb[::-1]])
    four_bytes = np.concatenate([rgb[..., ::-1], grey[..., None]], 2)
    return {
        "rgb555": bmp_bytes(rows_of_4([row.astype("<u2").tobytes() for row in five]), width, height, 16),
        "rgb565": bmp_bytes(rows_of_4([row.astype("<u2").tobytes() for row in six]), width, height, 16, 3, masks=(0xF800, 0x7E0, 0x1F)),
        "top_down": bmp_bytes(rows_of_4([row[:, ::-1].tobytes() for row in rgb]), width, -height, 24),
        "os2": bmp_bytes(bottom_up([2, 1, 0]), width, height, 24, header=12),
        "rgb32": bmp_bytes(four_bytes[::-1].tobytes(), width, height, 32),
        "masks32": bmp_bytes(four_bytes[::-1].tobytes(), width, height, 32, 3, masks=(0xFF000000, 0xFF0000, 0xFF00)),
        "palette4": bmp_bytes(four, width, height, 4, palette=colours[:64]),
        "rle8": bmp_bytes(runs8, width, height, 8, 1, palette=colours),
        "rle4": bmp_bytes(runs4, width, height, 4, 2, palette=colours[:64]),
    }


def gifs(picture):
    palette = picture.quantize(16)
    out = {}

    def saved(name, image, **options):
        file = io.BytesIO()
        image.save(file, "gif", **options)
        out[name] = file.getvalue()

    saved("plain", palette, interlace=0)
    saved("interlaced", palette, interlace=1)
    saved("grey", picture.convert("L"))
    saved("animated", palette, save_all=True, append_images=[palette.rotate(90), palette.rotate(180)], duration=40)
    saved("transparent", palette, transparency=3)
    for name, of in (("small_frame", "plain"), ("small_transparent_frame", "transparent")):
        data = bytearray(out[of])
        at = data.index(b",", 13 + 3 * 16)
        data[6:10] = struct.pack("<HH", picture.width + 5, picture.height + 3)
        data[at + 1 : at + 5] = struct.pack("<HH", 2, 1)
        out[name] = bytes(data)
    return out


def pnms(rgb, grey):
    height, width = grey.shape
    size = b"%d %d\n" % (width, height)
    deep = rgb.astype(int) * 257 - rgb % 7
    text = lambda values: b" ".join(b"%d" % value for value in values.reshape(-1))
    bits = (grey > 99).astype(np.uint8)
    return {
        "plain_bits.pbm": b"P1\n# bits\n" + size + b"\n".join(b"".join(b"%d" % bit for bit in row) for row in bits),
        "bits.pbm": b"P4 " + size + np.packbits(bits, axis=1).tobytes(),
        "plain_grey.pgm": b"P2\n" + size + b"255\n" + text(grey) + b" # the end\n",
        "grey.pgm": b"P5\n" + size + b"255\n" + grey.tobytes(),
        "grey_to_100.pgm": b"P5\n" + size + b"100\n" + (grey // 3).tobytes(),
        "plain_rgb.ppm": b"P3\n" + size + b"77\n" + text(rgb // 4),
        "rgb.ppm": b"P6\n#\n" + size + b"255\n" + rgb.tobytes(),
        "rgb16.pnm": b"P6\n" + size + b"65535\n" + deep.astype(">u2").tobytes(),
        "rgb_to_1000.ppm": b"P6\n" + size + b"1000\n" + (deep // 66).astype(">u2").tobytes(),
    }


def tiffs(picture, rgb, grey):
    import zlib

    colours = np.random.default_rng(5).integers(0, 65536, 3 * 16)
    deep = rgb.astype(int) * 257 - rgb % 7
    alpha = (np.arange(grey.size).reshape(*grey.shape, 1) * 2) % 256
    four = np.concatenate([rgb, alpha], 2)
    one = grey[..., None].astype(int)
    deflated = dict(compression=8, pack=zlib.compress)
    out = {
        "grey2": tiff_bytes(one >> 6, 1, 2),
        "grey4_white_zero": tiff_bytes(one >> 4, 0, 4),
        "palette4": tiff_bytes(one >> 4, 3, 4, colours=colours, **deflated),
        "palette8_tiles": tiff_bytes(one, 3, 8, tile=(16, 16), colours=np.arange(768) * 85),
        "rgb_tiles": tiff_bytes(rgb, 2, tile=(16, 16), **deflated),
        "rgb_planes": tiff_bytes(rgb, 2, planar=True, order=">"),
        "rgb_planes_deflate": tiff_bytes(rgb, 2, planar=True, **deflated),
        "rgb16": tiff_bytes(deep, 2, 16),
        "rgb16_big_endian": tiff_bytes(deep, 2, 16, order=">", **deflated),
        "rgba": tiff_bytes(four, 2, extra=[2]),
        "rgb_times_alpha": tiff_bytes(four, 2, extra=[1]),
        "cmyk16": tiff_bytes(np.concatenate([deep, deep[..., :1] // 3], 2), 5, 16),
    }

    def saved(name, image, **options):
        file = io.BytesIO()
        image.save(file, "tiff", **options)
        out[name] = file.getvalue()

    cmyk = Image.merge("CMYK", [*picture.split(), Image.fromarray(grey // 3)])
    for name, image, compression in [
        ("bits", picture.convert("1"), "raw"), ("grey_lzw", picture.convert("L"), "tiff_lzw"), ("rgb", picture, "raw"),
        ("rgb_packbits", picture, "packbits"), ("cmyk_lzw", cmyk, "tiff_lzw"), ("palette", picture.quantize(64), "tiff_adobe_deflate"),
        ("jpeg", picture, "jpeg"), ("jpeg_grey", picture.convert("L"), "jpeg"),
    ]:  # fmt: skip
        saved(name, image, compression=compression)
    saved("rgb_lzw_differences", picture, compression="tiff_lzw", tiffinfo={317: 2})
    saved("rgb_big", picture, big_tiff=True)
    saved("two_pages", picture, save_all=True, append_images=[picture.rotate(180)])
    saved("many_strips", picture.resize((60, 70)), compression="tiff_lzw", strip_size=1000)
    return out


def chunk(kind, data):
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks):
    return chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def webps(picture, alpha):
    out = {}

    def saved(name, image, **options):
        file = io.BytesIO()
        image.save(file, "webp", **options)
        out[name] = file.getvalue()

    four = picture.copy()
    four.putalpha(Image.fromarray(alpha))
    saved("lossless", picture, lossless=True)
    saved("lossless_rgba", four, lossless=True, exact=True)
    saved("animated", picture, lossless=True, save_all=True, append_images=[picture.rotate(180)], duration=40)
    three = lambda number: struct.pack("<I", number)[:3]
    frame = three(1) + three(2) + three(picture.width - 1) + three(picture.height - 1) + three(40) + b"\0"
    head = b"\x12\0\0\0" + three(picture.width + 8) + three(picture.height + 6)
    image = out["lossless_rgba"][12:]
    image = image[image.index(b"VP8L") :] if b"VP8X" in image[:4] else image
    out["small_frame"] = riff(chunk(b"VP8X", head), chunk(b"ANIM", bytes(6)), chunk(b"ANMF", frame + image))
    return out


def make(images, hostile, scene, digest, case):
    """Writes the pictures; `case` notes what Pillow makes of one."""
    folder = images / "formats"
    folder.mkdir()
    picture = scene(13, 9, 3)
    rgb, grey = np.asarray(picture), np.asarray(picture.convert("L"))
    alpha = (np.arange(grey.size).reshape(grey.shape) * 2 % 256).astype(np.uint8)
    files = {f"{name}.{end}": data for end, made in [
        ("bmp", bmps(rgb, grey)), ("gif", gifs(picture)), ("tif", tiffs(picture, rgb, grey)), ("webp", webps(picture, alpha)),
    ] for name, data in made.items()} | pnms(rgb, grey)  # fmt: skip
    for image, name in [(picture, "rgb"), (picture.convert("1"), "bits"), (picture.convert("L"), "grey"), (picture.quantize(), "palette")]:
        file = io.BytesIO()
        image.save(file, "bmp")
        files[f"{name}.bmp"] = file.getvalue()
    file = io.BytesIO()
    scene(41, 31, 1).save(file, "webp", quality=80)
    files["lossy.webp"] = file.getvalue()

    def noted(op, name, shown):
        case(op, f"formats/{name}", size_px=[shown.height, shown.width], digest=digest(shown))

    for name, data in files.items():
        (folder / name).write_bytes(data)
        noted("decode_format", name, Image.open(folder / name).convert("RGB"))
    # Sides that 4 divides, and not 8: how far a mirrored picture may be shrunk depends on it.
    upright = scene(44, 36, 2)
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        turned = [(f"exif_{value}.jpg", dict(quality=85, exif=exif))]
        if value == 6:
            turned += [("exif_6_progressive.jpg", dict(quality=85, progressive=True, exif=exif)), ("exif_6.png", dict(exif=exif))]
            turned += [("exif_6.webp", dict(lossless=True, exif=exif)), ("exif_6.tif", dict(tiffinfo={274: 6}))]
        for name, options in turned:
            upright.save(folder / name, **options)
            with Image.open(folder / name) as image:
                noted("exif", name, ImageOps.exif_transpose(image).convert("RGB"))
    broken = {name: files[name][: len(files[name]) * 2 // 3] for name in ("rgb.bmp", "plain.gif", "rgb.ppm", "rgb.tif", "lossless.webp")}
    for name, data in broken.items():
        (hostile / f"truncated_{name}").write_bytes(data)
    big = struct.pack("<H", 60000)
    (hostile / "huge_header.gif").write_bytes(files["plain.gif"][:6] + 2 * big + files["plain.gif"][10:])
    (hostile / "huge_header.bmp").write_bytes(bmp_bytes(b"", 60000, 60000, 24))
    (hostile / "huge_header.ppm").write_bytes(b"P6 60000 60000 255\n")
    tiles = tiff_bytes(rgb, 2, tile=(16, 16))
    wide, huge = struct.pack("<HHII", 322, 3, 1, 16), struct.pack("<HHII", 322, 4, 1, 1 << 31)
    assert wide in tiles
    (hostile / "huge_tiles.tif").write_bytes(tiles.replace(wide, huge))
    Image.new("F", (4, 4)).save(hostile / "float.tif")
    (hostile / "no_picture.gif").write_bytes(files["plain.gif"][:13 + 48] + b";")
    (hostile / "runs_end_early.bmp").write_bytes(files["rle8.bmp"][:-6] + b"\0\1")
