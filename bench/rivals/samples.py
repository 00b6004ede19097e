"""One sample in plain Python, by Pillow, torchvision or OpenCV: what a user of a generic loader writes."""

import random

import numpy as np
from loop import MEAN, STD, random_crop

_MEAN = np.array(MEAN, np.float32)
_STD = np.array(STD, np.float32)
_SCALE, _SHIFT = 1 / (255 * _STD), -_MEAN / _STD


def opencv_pixels(data, train):
    """JPEG bytes to RGB u8 224x224. INTER_AREA where it shrinks: OpenCV's antialiased filter; else bilinear."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    height, width = image.shape[:2]
    if train:
        top, left, h, w = random_crop(width, height)
    else:  # resize 256 and centre crop 224, as one crop of the source
        h = w = min(width, height) * 224 // 256
        top, left = (height - h) // 2, (width - w) // 2
    image = image[top : top + h, left : left + w]
    image = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA if min(h, w) > 224 else cv2.INTER_LINEAR)
    return cv2.flip(image, 1) if train and random.random() < 0.5 else image


def normalised(image):
    """HWC u8 to CHW f32 in one pass over the output."""
    out = np.empty((3, *image.shape[:2]), np.float32)
    for c in range(3):
        np.multiply(image[..., c], _SCALE[c], out=out[c], dtype=np.float32, casting="unsafe")
        out[c] += _SHIFT[c]
    return out


def opencv(path, train):
    with open(path, "rb") as file:
        return normalised(opencv_pixels(file.read(), train))


def torch_transform(train, tensors):
    """torchvision's v2 recipe; `tensors`: input is a u8 CHW tensor, else a Pillow image."""
    import torch
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    if train:
        steps = [v2.RandomResizedCrop(224, interpolation=bilinear, antialias=True), v2.RandomHorizontalFlip()]
    else:
        steps = [v2.Resize(256, interpolation=bilinear, antialias=True), v2.CenterCrop(224)]
    steps += [] if tensors else [v2.PILToTensor()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def gray_png(path):
    """A digit as normalised RGB 3x28x28 f32, decoded by Pillow."""
    from PIL import Image

    return normalised(np.asarray(Image.open(path).convert("RGB")))
