"""Draws small pictures of three shapes, in the layout of a data set for classification."""

import numpy as np
from PIL import Image, ImageDraw


def draw_shapes(folder, train, val, seed=0):
    """DIR/{train,test}/{disc,square,stripes}/*.jpg, `train` and `val` pictures of each class."""
    rng = np.random.default_rng(seed)
    for split, count in [("train", train), ("test", val)]:
        for kind in ("disc", "square", "stripes"):
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                side = int(rng.integers(36, 60))
                picture = Image.fromarray(rng.integers(0, 70, (side, side, 3), dtype=np.uint8))
                draw = ImageDraw.Draw(picture)
                colour = tuple(int(c) for c in rng.integers(150, 256, 3))
                x, y = (int(v) for v in rng.integers(4, 12, 2))
                box = [x, y, x + 20, y + 20]
                if kind == "disc":
                    draw.ellipse(box, fill=colour)
                elif kind == "square":
                    draw.rectangle(box, fill=colour)
                else:
                    for row in range(0, side, 6):
                        draw.line([0, row, side, row], fill=colour, width=2)
                picture.save(folder / split / kind / f"{number:03}.jpg", quality=90)
    return folder
