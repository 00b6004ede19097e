"""KITTI's average precision, worked out slowly from its rules, and made-up data sets to compare figures on.

Overlaps of turned boxes come from a polygon's half planes and the angle order of its corners, precision from lists of
(frame, label) and (frame, detection): nothing here is shared with the implementation that it checks.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

LEVELS = [(40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5)]
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}


def corners(x, y, along, across, angle):
    """Corners in order; `angle` turns from the first axis to the second."""
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    c, s = math.cos(angle), math.sin(angle)
    return [(x + a * along / 2 * c - b * across / 2 * s, y + a * along / 2 * s + b * across / 2 * c) for a, b in signs]


def in_rectangle(point, x, y, along, across, angle):
    dx, dy = point[0] - x, point[1] - y
    c, s = math.cos(angle), math.sin(angle)
    return abs(dx * c + dy * s) <= along / 2 + 1e-9 and abs(dy * c - dx * s) <= across / 2 + 1e-9


def crossing(p, q, r, t):
    (px, py), (qx, qy), (rx, ry), (tx, ty) = p, q, r, t
    det = (qx - px) * (ty - ry) - (qy - py) * (tx - rx)
    if abs(det) < 1e-14:
        return None
    u = ((rx - px) * (ty - ry) - (ry - py) * (tx - rx)) / det
    v = ((rx - px) * (qy - py) - (ry - py) * (qx - px)) / det
    return (px + u * (qx - px), py + u * (qy - py)) if 0 <= u <= 1 and 0 <= v <= 1 else None


def common_area(one, two):
    """Of two rectangles (x, y, along, across, angle)."""
    a, b = corners(*one), corners(*two)
    points = [p for p in a if in_rectangle(p, *two)] + [p for p in b if in_rectangle(p, *one)]
    for i, j in itertools.product(range(4), range(4)):
        met = crossing(a[i], a[(i + 1) % 4], b[j], b[(j + 1) % 4])
        if met:
            points.append(met)
    if len(points) < 3:
        return 0.0
    mx, my = (sum(p[axis] for p in points) / len(points) for axis in (0, 1))
    points.sort(key=lambda p: math.atan2(p[1] - my, p[0] - mx))
    turned = points[1:] + points[:1]
    return abs(sum(p[0] * q[1] - p[1] * q[0] for p, q in zip(points, turned))) / 2


def overlap(metric, one, i, two, j):
    if metric == "bbox":
        a, b = one["bbox"][i], two["bbox"][j]
        common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return common / (sum(areas) - common)

    def plan(annos, at):
        (x, _, z), (length, _, width) = annos["location"][at], annos["dimensions"][at]
        # The camera's y points down, so its angle turns from z to x.
        return (x, z, length, width, -annos["rotation_y"][at])

    area = common_area(plan(one, i), plan(two, j))
    sizes = [annos["dimensions"][at] for annos, at in ((one, i), (two, j))]
    if metric == "bev":
        return area / (sum(l * w for l, _, w in sizes) - area)
    bottoms = [annos["location"][at][1] for annos, at in ((one, i), (two, j))]
    height = max(0, min(bottoms) - max(bottom - size[1] for bottom, size in zip(bottoms, sizes)))
    return area * height / (sum(l * h * w for l, h, w in sizes) - area * height)


def curve(truths, founds, metric, name, level, least):
    """Precision and orientation at 41 steps of recall."""
    min_px, max_occluded, max_truncated = LEVELS[level]
    counting, harmless, candidates, harmless_found = set(), set(), set(), set()
    for frame, truth in enumerate(truths):
        for i, kind in enumerate(truth["name"]):
            tall = truth["bbox"][i][3] - truth["bbox"][i][1] > min_px
            easy = tall and truth["occluded"][i] <= max_occluded and truth["truncated"][i] <= max_truncated
            if kind == name and easy:
                counting.add((frame, i))
            elif kind in (name, NEIGHBOURS.get(name)):
                harmless.add((frame, i))
    for frame, found in enumerate(founds):
        for j, kind in enumerate(found["name"]):
            if found["bbox"][j][3] - found["bbox"][j][1] < min_px:
                harmless_found.add((frame, j))
            elif kind == name:
                candidates.add((frame, j))

    def near(frame, i, free):
        truth, found = truths[frame], founds[frame]
        ours = [j for f, j in sorted(candidates | harmless_found) if f == frame and j in free[frame]]
        overlaps = {j: overlap(metric, found, j, truth, i) for j in ours}
        return {j: value for j, value in overlaps.items() if value > least}

    def everything():
        return [set(range(len(found["name"]))) for found in founds]

    scores, free = [], everything()
    for frame, i in sorted(counting | harmless):
        there = near(frame, i, free)
        if there:
            best = max(there, key=lambda j: (founds[frame]["score"][j], -j))
            free[frame].discard(best)
            if (frame, i) in counting and (frame, best) in candidates:
                scores.append(founds[frame]["score"][best])
    scores.sort(reverse=True)
    thresholds, reached = [], 0.0
    for at, score in enumerate(scores):
        here, after = (at + 1) / len(counting), (at + 2) / len(counting)
        if at + 1 < len(scores) and after - reached < reached - here:
            continue
        thresholds.append(score)
        reached += 1 / 40

    precision, orientation = np.zeros(41), np.zeros(41)
    for step, threshold in enumerate(thresholds):
        free, hits, alike = everything(), 0, 0.0
        for frame, found in enumerate(founds):
            free[frame] = {j for j in free[frame] if found["score"][j] >= threshold}
        for frame, i in sorted(counting | harmless):
            there = near(frame, i, free)
            good = {j: value for j, value in there.items() if (frame, j) in candidates}
            if good:
                best = max(good, key=lambda j: (good[j], -j))
            elif there:
                best = min(there)
            else:
                continue
            free[frame].discard(best)
            if (frame, i) in counting and good:
                hits += 1
                alike += (1 + math.cos(truths[frame]["alpha"][i] - founds[frame]["alpha"][best])) / 2
        wrong = 0
        for frame, j in candidates:
            if j in free[frame]:
                own = founds[frame]["bbox"][j]
                area = (own[2] - own[0]) * (own[3] - own[1])
                regions = [box for box, kind in zip(truths[frame]["bbox"], truths[frame]["name"]) if kind == "DontCare"]
                inside = [
                    max(0, min(own[2], r[2]) - max(own[0], r[0])) * max(0, min(own[3], r[3]) - max(own[1], r[1])) / area
                    for r in regions
                ]
                wrong += not (metric == "bbox" and any(part > least for part in inside))
        if hits + wrong:
            precision[step], orientation[step] = hits / (hits + wrong), alike / (hits + wrong)
    return [np.maximum.accumulate(values[::-1])[::-1] for values in (precision, orientation)]


def figures(truths, founds, names):
    """The figures of the strict overlaps by OpenPCDet's names."""
    made = {}
    for name in names:
        least = 0.7 if name in ("Car", "Van", "Truck") else 0.5
        for level, word in enumerate(("easy", "moderate", "hard")):
            for metric, called in (("bbox", "image"), ("bev", "bev"), ("3d", "3d")):
                precision, orientation = curve(truths, founds, metric, name, level, least)
                for key, values in [(called, precision)] + ([("aos", orientation)] if metric == "bbox" else []):
                    made[f"{name}_{key}/{word}"] = values[::4].sum() / 11 * 100
                    made[f"{name}_{key}/{word}_R40"] = values[1:].sum() / 40 * 100
    return made


def made_up(rng, frames):
    """Labels of streets, and detections that are near some of them; some scores are equal."""
    truths, founds = [], []
    for _ in range(frames):
        truth, found = ({key: [] for key in KEYS} for _ in range(2))
        for _ in range(rng.integers(0, 9)):
            name = str(rng.choice(["Car", "Car", "Pedestrian", "Cyclist", "Van", "Person_sitting"]))
            own = label(rng, name)
            add(truth, own)
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                wrong = str(rng.choice(["Car", "Pedestrian", "Cyclist"]))
                add(found, near_to(rng, own, wrong if rng.random() < 0.1 or name not in ("Car", "Pedestrian", "Cyclist") else name))
        for _ in range(rng.integers(0, 3)):
            add(found, near_to(rng, label(rng, "Car"), str(rng.choice(["Car", "Pedestrian", "Cyclist"]))))
        for _ in range(rng.integers(0, 3)):
            left, top = rng.uniform(0, 1000), rng.uniform(100, 200)
            width, height = rng.uniform(50, 300, 2)
            add(truth, {"name": "DontCare", "bbox": [left, top, left + width, top + height], **NOBODY})
        truths.append(truth)
        founds.append(found)
    return truths, founds


KEYS = ("name", "truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y", "score")
NOBODY = {
    "truncated": -1.0, "occluded": -1.0, "alpha": -10.0, "dimensions": [-1.0] * 3, "location": [-1000.0] * 3,
    "rotation_y": -10.0, "score": -1.0,
}  # fmt: skip
SIZES = {"Car": (3.9, 1.56, 1.6), "Van": (5.0, 2.2, 1.9), "Cyclist": (1.76, 1.73, 0.6)}


def add(annos, entry):
    for key in KEYS:
        annos[key].append(entry[key])


def label(rng, name):
    z, x = rng.uniform(5, 50), rng.uniform(-15, 15)
    size = [side * rng.uniform(0.9, 1.1) for side in SIZES.get(name, (0.8, 1.73, 0.6))]
    middle, tall, wide = 600 + 700 * x / z, 700 * size[1] / z, 700 * size[0] / z
    return {
        "name": name,
        "truncated": float(rng.choice([0, 0, 0, 0.2, 0.4, 0.6])),
        "occluded": float(rng.choice([0, 0, 0, 1, 2, 3])),
        "alpha": rng.uniform(-3, 3),
        "bbox": [middle - wide / 2, 180 + 700 * 1.7 / z - tall, middle + wide / 2, 180 + 700 * 1.7 / z],
        "dimensions": size,
        "location": [x, 1.7, z],
        "rotation_y": rng.uniform(-3, 3),
        "score": -1.0,
    }


def near_to(rng, own, name):
    spread = rng.choice([0.02, 0.1, 0.3])
    return {
        "name": name,
        "truncated": 0.0,
        "occluded": 0.0,
        "alpha": own["alpha"] + rng.normal(0, spread),
        "bbox": [*(np.array(own["bbox"][:2]) + rng.normal(0, 20 * spread, 2)), *(np.array(own["bbox"][2:]) + rng.normal(0, 20 * spread, 2))],
        "dimensions": [side * (1 + rng.normal(0, spread / 3)) for side in own["dimensions"]],
        "location": [place + rng.normal(0, spread) for place in own["location"]],
        "rotation_y": own["rotation_y"] + rng.normal(0, spread),
        "score": float(np.round(rng.uniform(0.1, 1), 2)),
    }
