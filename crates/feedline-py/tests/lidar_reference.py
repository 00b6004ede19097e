"""OpenPCDet's data loading in plain NumPy, slow and straight from its formulas, and made-up scenes in KITTI's layout. The tests
compare the recipe with it, given what was drawn.
"""

import json
import pickle

import numpy as np
from PIL import Image

CLASSES = ["Car", "Pedestrian", "Cyclist"]
SIZES = {"Car": (3.9, 1.6, 1.56), "Pedestrian": (0.8, 0.6, 1.73), "Cyclist": (1.76, 0.6, 1.73)}
RANGE = [0, -39.68, -3, 69.12, 39.68, 1]
IMAGE = (375, 1242)
P2 = np.array([[721.54, 0, 609.56, 44.86], [0, 721.54, 172.85, 0.2164], [0, 0, 1, 0.002746]])
TR = np.array(
    [[7.5337e-03, -9.99971e-01, -6.1660e-04, -4.0698e-03], [1.48025e-02, 7.2807e-04, -9.99890e-01, -7.6316e-02],
     [9.99862e-01, 7.5238e-03, 1.48076e-02, -2.71781e-01]]
)  # fmt: skip


def square(matrix):
    full = np.eye(4)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full.astype(np.float32)


def turned(points, angle):
    """x, y turned from x towards y."""
    moved = points.copy()
    moved[:, 0] = points[:, 0] * np.cos(angle) - points[:, 1] * np.sin(angle)
    moved[:, 1] = points[:, 0] * np.sin(angle) + points[:, 1] * np.cos(angle)
    return moved


def inside(points, box, margin=0.0):
    """A mask of the points in a box that is larger by `margin` on each side."""
    local = turned(points[:, :3].astype(np.float64) - box[:3], -box[6])
    return (np.abs(local) <= np.asarray(box[3:6]) / 2 + margin).all(axis=1)


def corners_bev(box):
    dx, dy = box[3] / 2, box[4] / 2
    return turned(np.array([[dx, dy], [-dx, dy], [-dx, -dy], [dx, -dy]]), box[6]) + box[:2]


def overlap_bev(a, b):
    """True if the ground plans of two boxes touch: no axis of either separates them."""
    for box in (a, b):
        for angle in (box[6], box[6] + np.pi / 2):
            axis = np.array([np.cos(angle), np.sin(angle)])
            one, other = corners_bev(a) @ axis, corners_bev(b) @ axis
            if one.max() < other.min() or other.max() < one.min():
                return False
    return True


def limit_period(angle):
    return angle - np.floor(angle / (2 * np.pi) + 0.5) * 2 * np.pi


class Calib:
    def __init__(self, p2=P2, r0=np.eye(3), tr=TR):
        self.p2, self.r0, self.tr = square(p2), square(r0), square(tr)

    def to_rect(self, points):
        homogeneous = np.hstack([points[:, :3], np.ones((len(points), 1))]).astype(np.float64)
        return (homogeneous @ self.tr.T.astype(np.float64) @ self.r0.T.astype(np.float64))[:, :3]

    def to_lidar(self, points):
        homogeneous = np.hstack([points, np.ones((len(points), 1))])
        return (homogeneous @ np.linalg.inv(self.r0.astype(np.float64) @ self.tr.astype(np.float64)).T)[:, :3]

    def to_pixels(self, rect):
        homogeneous = np.hstack([rect, np.ones((len(rect), 1))])
        seen = homogeneous @ self.p2[:3].T.astype(np.float64)
        return seen[:, :2] / rect[:, 2:3], seen[:, 2] - self.p2[2, 3]

    def seen(self, points, image=IMAGE):
        """A mask of the points that the camera sees."""
        pixels, depth = self.to_pixels(self.to_rect(points))
        (height, width), u, v = image, pixels[:, 0], pixels[:, 1]
        return (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth >= 0)


def boxes_to_lidar(location, dimensions, rotation_y, calib):
    """Boxes of the camera, with sizes l h w, as x y z dx dy dz heading."""
    middle = calib.to_lidar(location)
    length, height, width = dimensions.T
    middle[:, 2] += height / 2
    return np.column_stack([middle, length, width, height, -(rotation_y + np.pi / 2)])


def boxes_to_camera(boxes, calib):
    bottom = boxes[:, :3].copy()
    bottom[:, 2] -= boxes[:, 5] / 2
    return calib.to_rect(bottom), boxes[:, [3, 5, 4]], -boxes[:, 6] - np.pi / 2


def bbox_of(location, dimensions, rotation_y, calib, image=IMAGE):
    """The box around the pixels of one object's corners, within the picture."""
    length, height, width = dimensions
    corners = np.array([[x, y, z] for x in (-length / 2, length / 2) for y in (-height, 0) for z in (-width / 2, width / 2)])
    cos, sin = np.cos(rotation_y), np.sin(rotation_y)
    corners = corners @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]) + location
    seen = np.hstack([corners, np.ones((8, 1))]) @ calib.p2[:3].T.astype(np.float64)
    pixels = seen[:, :2] / seen[:, 2:]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return np.clip(np.concatenate([low, high]), 0, [image[1] - 1, image[0] - 1] * 2)


def grid_of(bounds, voxel_size):
    low, high = np.asarray(bounds[:3], dtype=np.float64), np.asarray(bounds[3:], dtype=np.float64)
    return np.round((high - low) / np.asarray(voxel_size)).astype(np.int64)


def voxelise(points, bounds, voxel_size, max_points, max_voxels):
    """First come, first served; coordinates are z, y, x. The place of a point is counted in float32."""
    grid, numbers = grid_of(bounds, voxel_size), {}
    voxels = np.zeros((max_voxels, max_points, points.shape[1]), np.float32)
    coords, counts = np.zeros((max_voxels, 3), np.int32), np.zeros(max_voxels, np.int32)
    places = np.floor((points[:, :3] - np.float32(bounds[:3])) / np.float32(voxel_size))
    for point, place in zip(points, places.astype(np.int64)):
        if (place < 0).any() or (place >= grid).any():
            continue
        key = tuple(place[::-1])
        if key not in numbers:
            if len(numbers) == max_voxels:
                continue
            coords[len(numbers)] = key
            numbers[key] = len(numbers)
        number = numbers[key]
        if counts[number] < max_points:
            voxels[number, counts[number]] = point
            counts[number] += 1
    return voxels[: len(numbers)], coords[: len(numbers)], counts[: len(numbers)]


def in_range(points, bounds):
    """By x and y alone."""
    x, y = points[:, 0], points[:, 1]
    low, high = np.float32(bounds[:2]), np.float32(bounds[3:5])
    return (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])


def boxes_in_range(boxes, bounds):
    return ((boxes[:, :3] >= bounds[:3]) & (boxes[:, :3] <= bounds[3:])).all(axis=1)


def augmented(points, boxes, *, flip_x=False, flip_y=False, rotation=0.0, scale=1.0, shift=(0.0, 0.0, 0.0)):
    """The whole frame through the steps in this order, in float64."""
    points, boxes = points.astype(np.float64), boxes.astype(np.float64)
    if flip_x:
        points[:, 1], boxes[:, 1], boxes[:, 6] = -points[:, 1], -boxes[:, 1], -boxes[:, 6]
    if flip_y:
        points[:, 0], boxes[:, 0], boxes[:, 6] = -points[:, 0], -boxes[:, 0], -(boxes[:, 6] + np.pi)
    points, boxes = turned(points, rotation), turned(boxes, rotation)
    boxes[:, 6] += rotation
    points[:, :3] *= scale
    boxes[:, :6] *= scale
    points[:, :3] += shift
    boxes[:, :3] += shift
    return points, boxes


# Made-up data.


def scene(rng, number):
    """(points, boxes, names): a ground and objects on it that do not touch; object 0 is a car straight ahead."""
    ground = np.column_stack(
        [rng.uniform(1, 75, 4000), rng.uniform(-43, 43, 4000), rng.normal(-1.73, 0.02, 4000), rng.uniform(0, 1, 4000)]
    )
    behind = np.column_stack(
        [rng.uniform(-60, -1, 500), rng.uniform(-43, 43, 500), rng.uniform(-2.5, 1.5, 500), rng.uniform(0, 1, 500)]
    )
    names, boxes = [], []
    for at in range(40):
        name = "Car" if not names else rng.choice([*CLASSES, "Van"], p=[0.4, 0.25, 0.2, 0.15])
        size = np.array(SIZES.get(name, (4.5, 1.9, 2.1))) * rng.uniform(0.9, 1.1, 3)
        ahead = rng.uniform(8, 40)
        box = np.array([ahead, rng.uniform(-0.6, 0.6) * ahead, -1.73 + size[2] / 2, *size, rng.uniform(-np.pi, np.pi)])
        grown = box + [0, 0, 0, 0.4, 0.4, 0, 0]
        if not any(overlap_bev(grown, other) for other in boxes) and len(names) < 4 + number % 4:
            names.append(str(name))
            boxes.append(box)
    clouds = [ground, behind]
    for at, box in enumerate(boxes):
        # One in five has next to no points.
        count = 3 if at % 5 == 4 else int(rng.integers(30, 120))
        own = turned(rng.uniform(-0.42, 0.42, (count, 3)) * box[3:6], box[6]) + box[:3]
        clouds.append(np.column_stack([own, rng.uniform(0, 1, count)]))
    clouds = np.concatenate(clouds).astype(np.float32)
    # Each point of a frame is known by its intensity.
    clouds[:, 3] = np.arange(len(clouds)) / np.float32(len(clouds))
    return clouds[rng.permutation(len(clouds))], np.array(boxes), names


def difficulty(truncated, occluded, height):
    for level, (least, most_occluded, most_truncated) in enumerate([(40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5)]):
        if height >= least and occluded <= most_occluded and truncated <= most_truncated:
            return level
    return -1


def frame_info(folder, split, name, points, calib, labels):
    """An entry of OpenPCDet's info files, from the text of the labels."""
    info = {
        "point_cloud": {"num_features": 4, "lidar_idx": name},
        "image": {"image_idx": name, "image_shape": np.array(IMAGE, dtype=np.int32)},
        "calib": {"P2": calib.p2, "R0_rect": calib.r0, "Tr_velo_to_cam": calib.tr},
    }
    if labels is None:
        return info
    rows = [line.split() for line in labels.splitlines()]
    numbers = np.array([[float(word) for word in row[1:15]] for row in rows])
    objects = sum(row[0] != "DontCare" for row in rows)
    annos = {
        "name": np.array([row[0] for row in rows]),
        "truncated": numbers[:, 0],
        "occluded": numbers[:, 1],
        "alpha": numbers[:, 2],
        "bbox": numbers[:, 3:7],
        "dimensions": numbers[:, [9, 7, 8]],
        "location": numbers[:, 10:13],
        "rotation_y": numbers[:, 13],
        "score": np.full(len(rows), -1.0),
        "difficulty": np.array([difficulty(row[0], row[1], row[6] - row[4] + 1) for row in numbers], np.int32),
        "index": np.array([*range(objects), *[-1] * (len(rows) - objects)], np.int32),
    }
    boxes = boxes_to_lidar(annos["location"][:objects], annos["dimensions"][:objects], annos["rotation_y"][:objects], calib)
    annos["gt_boxes_lidar"] = boxes
    visible = points[calib.seen(points)]
    counts = [int(inside(visible, box).sum()) for box in boxes]
    annos["num_points_in_gt"] = np.array([*counts, *[-1] * (len(rows) - objects)], np.int32)
    return info | {"annos": annos}


def write_kitti(folder, train=6, val=3, test=0, seed=0, planes=True, infos="jsonl"):
    """Scenes in KITTI's layout with info files and a database of objects, written here and by nobody else."""
    rng, calib = np.random.default_rng(seed), Calib()
    names = [f"{number:06}" for number in range(train + val + test)]
    splits = {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}
    for part in ("training/velodyne", "training/label_2", "training/calib", "training/image_2", "training/planes"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part.replace("training", "testing")).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets").mkdir(exist_ok=True)
    found = {split: [] for split in splits}
    for split, own in splits.items():
        (folder / f"ImageSets/{split}.txt").write_text("".join(f"{name}\n" for name in own))
        part = folder / ("testing" if split == "test" else "training")
        for name in own:
            points, boxes, kinds = scene(rng, int(name))
            points.tofile(part / f"velodyne/{name}.bin")
            matrices = {"P0": P2, "P1": P2, "P2": P2, "P3": P2, "R0_rect": np.eye(3), "Tr_velo_to_cam": TR, "Tr_imu_to_velo": TR}
            text = [f"{key}: " + " ".join(f"{value:.12e}" for value in matrix.ravel()) for key, matrix in matrices.items()]
            (part / f"calib/{name}.txt").write_text("\n".join(text) + "\n")
            Image.new("RGB", IMAGE[::-1], (int(name), 40, 80)).save(part / f"image_2/{name}.png")
            if planes:
                header = "# Plane\nWidth 4\nHeight 1\n"
                (part / f"planes/{name}.txt").write_text(header + "-7.0e-03 -9.9997e-01 3.0e-04 1.70e+00\n")
            labels = None
            if split != "test":
                lines = []
                location, dimensions, rotation = boxes_to_camera(boxes, calib)
                for at, kind in enumerate(kinds):
                    length, height, width = dimensions[at]
                    bbox = bbox_of(location[at], dimensions[at], rotation[at], calib)
                    x, y, z = location[at]
                    turn = limit_period(rotation[at])
                    numbers = [limit_period(turn - np.arctan2(x, z)), *bbox, height, width, length, x, y, z, turn]
                    # A third is occluded a little.
                    lines.append(f"{kind} 0.00 {int(at % 3 == 2)} " + " ".join(f"{number:.2f}" for number in numbers))
                lines.append("DontCare -1 -1 -10 500.00 170.00 520.00 190.00 -1 -1 -1 -1000 -1000 -1000 -10")
                labels = "\n".join(lines) + "\n"
                (part / f"label_2/{name}.txt").write_text(labels)
            found[split].append(frame_info(folder, split, name, points, calib, labels))
            if planes and infos == "jsonl":
                plane = np.array([-7.0e-03, -9.9997e-01, 3.0e-04, 1.70])
                found[split][-1]["road_plane"] = plane / np.linalg.norm(plane[:3])
    write_infos(folder, {split: frames for split, frames in found.items() if frames}, infos)
    write_database(folder, found["train"], infos)
    return folder


def listed(value):
    if isinstance(value, dict):
        return {key: listed(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def dump(path, entries):
    path.write_text("".join(json.dumps(listed(entry)) + "\n" for entry in entries))


def write_infos(folder, found, infos):
    for split, frames in found.items():
        if infos == "jsonl":
            dump(folder / f"kitti_infos_{split}.jsonl", frames)
        else:
            (folder / f"kitti_infos_{split}.pkl").write_bytes(pickle.dumps(frames))


def write_database(folder, frames, infos):
    """A file for each object, as OpenPCDet writes them."""
    (folder / "gt_database").mkdir(exist_ok=True)
    entries = {}
    for info in frames:
        name, annos = info["point_cloud"]["lidar_idx"], info["annos"]
        points = np.fromfile(folder / f"training/velodyne/{name}.bin", np.float32).reshape(-1, 4)
        for at, box in enumerate(annos["gt_boxes_lidar"]):
            kind = str(annos["name"][at])
            own = points[inside(points, box)]
            own[:, :3] -= box[:3].astype(np.float32)
            path = f"gt_database/{name}_{kind}_{at}.bin"
            own.tofile(folder / path)
            entry = {
                "name": kind, "path": path, "image_idx": name, "gt_idx": at, "box3d_lidar": box,
                "num_points_in_gt": len(own), "difficulty": int(annos["difficulty"][at]), "bbox": annos["bbox"][at],
                "score": -1.0,
            }  # fmt: skip
            entries.setdefault(kind, []).append(entry)
    if infos == "jsonl":
        dump(folder / "kitti_dbinfos_train.jsonl", [entry for own in entries.values() for entry in own])
    else:
        (folder / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(entries))


FLIP = {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]}
ROTATION = {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78539816, 0.78539816]}
SCALING = {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.95, 1.05]}
MASK = {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True}
SHUFFLE = {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}}


def sampling(**changes):
    return {
        "NAME": "gt_sampling",
        "USE_ROAD_PLANE": False,
        "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
        "PREPARE": {
            "filter_by_min_points": ["Car:5", "Pedestrian:5", "Cyclist:5"],
            "filter_by_difficulty": [-1],
        },
        "SAMPLE_GROUPS": ["Car:8", "Pedestrian:5", "Cyclist:5"],
        "NUM_POINT_FEATURES": 4,
        "DATABASE_WITH_FAKELIDAR": False,
        "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
        "LIMIT_WHOLE_SCENE": True,
    } | changes


def voxels(size=(0.16, 0.16, 4), points=32, train=16000, test=40000):
    return {
        "NAME": "transform_points_to_voxels",
        "VOXEL_SIZE": list(size),
        "MAX_POINTS_PER_VOXEL": points,
        "MAX_NUMBER_OF_VOXELS": {"train": train, "test": test},
    }


def config(folder, augment=(FLIP, ROTATION, SCALING), process=None, **changes):
    """`DATA_CONFIG` as in OpenPCDet's kitti_dataset.yaml, with PointPillars' voxels."""
    features = ["x", "y", "z", "intensity"]
    return {
        "DATASET": "KittiDataset",
        "DATA_PATH": str(folder),
        "POINT_CLOUD_RANGE": RANGE,
        "DATA_SPLIT": {"train": "train", "test": "val"},
        "INFO_PATH": {"train": ["kitti_infos_train.pkl"], "test": ["kitti_infos_val.pkl"]},
        "GET_ITEM_LIST": ["points"],
        "FOV_POINTS_ONLY": True,
        "DATA_AUGMENTOR": {"DISABLE_AUG_LIST": ["placeholder"], "AUG_CONFIG_LIST": [dict(step) for step in augment]},
        "POINT_FEATURE_ENCODING": {
            "encoding_type": "absolute_coordinates_encoding",
            "used_feature_list": features,
            "src_feature_list": features,
        },
        "DATA_PROCESSOR": [MASK, SHUFFLE, voxels()] if process is None else list(process),
    } | changes
