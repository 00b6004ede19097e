"""KITTI's training frames as OpenPCDet's data loading makes them, by a torch DataLoader: NumPy, its C++ loops as Numba, spconv's
voxels. What a port of it writes, with its order of steps and its settings file.

    python lidar.py --check DIR        that the evaluation frames are Feedline's, number for number
"""

import json
import os
import pathlib
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # or matrix products of all workers get in each other's way, at half the speed

import numba
import numpy as np
import torch
from loop import run
from torch.utils.data import DataLoader, Dataset
from torch_loader import one_thread


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def turned(points, angle):
    """x, y turned from x towards y, in float32 as `rotate_points_along_z`."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
    points[:, :3] = points[:, :3] @ turn
    return points


@numba.njit(cache=True)
def inside_any(points, boxes):
    """A mask of the points in one of the boxes: `points_in_boxes_cpu`."""
    found = np.zeros(len(points), np.bool_)
    for at in range(len(boxes)):
        x, y, z, dx, dy, dz, heading = boxes[at, :7]
        cos, sin = np.cos(-heading), np.sin(-heading)
        for i in range(len(points)):
            if abs(points[i, 2] - z) > dz / 2:
                continue
            px, py = points[i, 0] - x, points[i, 1] - y
            if abs(px * cos - py * sin) < dx / 2 and abs(px * sin + py * cos) < dy / 2:
                found[i] = True
    return found


@numba.njit(cache=True)
def corners(box):
    cos, sin = np.cos(box[6]), np.sin(box[6])
    out = np.empty((4, 2))
    for at, (along, across) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        x, y = along * box[3] / 2, across * box[4] / 2
        out[at, 0], out[at, 1] = box[0] + x * cos - y * sin, box[1] + x * sin + y * cos
    return out


@numba.njit(cache=True)
def overlaps(some, others):
    """True for each pair of overlapping ground plans: the same as `boxes_bev_iou_cpu` above 0."""
    out = np.zeros((len(some), len(others)), np.bool_)
    for i in range(len(some)):
        a = corners(some[i])
        for j in range(len(others)):
            b, apart = corners(others[j]), False
            for heading in (some[i, 6], others[j, 6]):
                for turn in range(2):
                    x, y = np.cos(heading + turn * np.pi / 2), np.sin(heading + turn * np.pi / 2)
                    one, two = a[:, 0] * x + a[:, 1] * y, b[:, 0] * x + b[:, 1] * y
                    apart = apart or one.max() <= two.min() or two.max() <= one.min()
            out[i, j] = not apart
    return out


class Calibration:
    def __init__(self, calib):
        self.p2 = np.array(calib["P2"], np.float32)[:3]
        self.to_rect = np.array(calib["Tr_velo_to_cam"], np.float32)[:3].T @ np.array(calib["R0_rect"], np.float32)[:3, :3].T
        self.full = np.linalg.inv(np.vstack([self.to_rect.T, [0, 0, 0, 1]]).astype(np.float64)).T[:, :3]

    def lidar_to_rect(self, points):
        return np.hstack([points[:, :3], np.ones((len(points), 1), np.float32)]) @ self.to_rect

    def rect_to_lidar(self, points):
        return np.hstack([points, np.ones((len(points), 1))]) @ self.full

    def seen(self, points, shape):
        rect = np.hstack([self.lidar_to_rect(points), np.ones((len(points), 1), np.float32)])
        pixels = rect @ self.p2.T
        u, v, depth = pixels[:, 0] / rect[:, 2], pixels[:, 1] / rect[:, 2], pixels[:, 2] - self.p2[2, 3]
        return (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0]) & (depth >= 0)


class Sampler:
    """`DataBaseSampler`."""

    def __init__(self, root, settings, names):
        self.root, self.settings = root, settings
        least = dict(one.split(":") for one in settings["PREPARE"]["filter_by_min_points"])
        removed = settings["PREPARE"]["filter_by_difficulty"]
        objects = [one for one in lines(root / "kitti_dbinfos_train.jsonl") if one["difficulty"] not in removed]
        self.groups = {}
        for group in settings["SAMPLE_GROUPS"]:
            name, count = group.split(":")
            own = [one for one in objects if one["name"] == name and one["num_points_in_gt"] >= int(least[name])]
            self.groups[name] = {"count": int(count), "objects": own, "order": np.arange(len(own)), "at": len(own)}

    def draw(self, group):
        if group["at"] >= len(group["objects"]):
            group["order"], group["at"] = np.random.permutation(len(group["objects"])), 0
        chosen = group["order"][group["at"] : group["at"] + group["count"]]
        group["at"] += group["count"]
        return [group["objects"][at] for at in chosen]

    def __call__(self, frame, calibration, plane):
        present, pasted = frame["gt_boxes"], []
        for name, group in self.groups.items():
            candidates = self.draw(group)
            boxes = np.array([one["box3d_lidar"] for one in candidates], np.float32)
            others = overlaps(boxes, boxes)
            others[range(len(boxes)), range(len(boxes))] = False
            free = ~others.any(axis=1) & ~overlaps(boxes, present[:, :7]).any(axis=1)
            present = np.vstack([present, boxes[free]])
            pasted += [candidates[at] for at in np.nonzero(free)[0]]
        if not pasted:
            return
        boxes = present[len(frame["gt_boxes"]) :].copy()
        a, b, c, d = plane
        centre = calibration.lidar_to_rect(boxes)
        centre[:, 1] = (-d - a * centre[:, 0] - c * centre[:, 2]) / b
        moved = boxes[:, 2] - boxes[:, 5] / 2 - calibration.rect_to_lidar(centre)[:, 2]
        boxes[:, 2] -= moved
        clouds = []
        for one, down in zip(pasted, moved):
            count = one["num_points_in_gt"] * 4
            cloud = np.fromfile(self.root / one["path"], np.float32, count, offset=one.get("offset_bytes") or 0).reshape(-1, 4)
            cloud[:, :3] += np.array(one["box3d_lidar"][:3], np.float32)
            cloud[:, 2] -= down
            clouds.append(cloud)
        points = frame["points"][~inside_any(frame["points"], boxes)]
        frame["points"] = np.concatenate([*clouds, points])
        frame["gt_boxes"] = np.concatenate([frame["gt_boxes"], boxes])
        frame["gt_names"] = np.concatenate([frame["gt_names"], [one["name"] for one in pasted]])


class Kitti(Dataset):
    def __init__(self, root, training=True):
        self.root, self.training, self.voxels = root, training, None
        settings = json.loads((root / "pointpillar.yaml").read_text())
        self.names, self.settings = settings["CLASS_NAMES"], settings["DATA_CONFIG"]
        self.range = np.array(self.settings["POINT_CLOUD_RANGE"], np.float32)
        self.infos = lines(root / f"kitti_infos_{'train' if training else 'val'}.jsonl")
        self.steps = {step["NAME"]: step for step in self.settings["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"]}
        self.sampler = Sampler(root, self.steps["gt_sampling"], self.names)

    def __len__(self):
        return len(self.infos)

    def voxelised(self, points):
        from cumm import tensorview as tv
        from spconv.utils import Point2VoxelCPU3d

        step = self.settings["DATA_PROCESSOR"][-1]
        if self.voxels is None:  # in the worker: it cannot be pickled
            self.voxels = Point2VoxelCPU3d(
                vsize_xyz=step["VOXEL_SIZE"], coors_range_xyz=self.settings["POINT_CLOUD_RANGE"], num_point_features=4,
                max_num_points_per_voxel=step["MAX_POINTS_PER_VOXEL"],
                max_num_voxels=step["MAX_NUMBER_OF_VOXELS"]["train" if self.training else "test"],
            )  # fmt: skip
        # The generator goes on using its memory.
        return [found.numpy().copy() for found in self.voxels.point_to_voxel(tv.from_numpy(points))]

    def __getitem__(self, i):
        info = self.infos[i]
        name, calibration = info["point_cloud"]["lidar_idx"], Calibration(info["calib"])
        points = np.fromfile(self.root / f"training/velodyne/{name}.bin", np.float32).reshape(-1, 4)
        points = points[calibration.seen(points, info["image"]["image_shape"])]
        annos = info["annos"]
        own = [at for at, kind in enumerate(annos["name"]) if kind != "DontCare"]
        location, sizes = np.array(annos["location"])[own], np.array(annos["dimensions"])[own]
        middle = calibration.rect_to_lidar(location)
        middle[:, 2] += sizes[:, 1] / 2
        heading = -(np.array(annos["rotation_y"])[own] + np.pi / 2)
        boxes = np.column_stack([middle, sizes[:, [0, 2, 1]], heading]).astype(np.float32)
        frame = {"points": points, "gt_boxes": boxes, "gt_names": np.array(annos["name"])[own]}
        if self.training:
            self.augment(frame, calibration, info["road_plane"])
        used = np.isin(frame["gt_names"], self.names)
        boxes = frame["gt_boxes"][used]
        boxes[:, 6] -= np.floor(boxes[:, 6] / (2 * np.pi) + 0.5) * 2 * np.pi
        classes = np.array([self.names.index(kind) + 1 for kind in frame["gt_names"][used]], np.float32)
        points, (low, high) = frame["points"], (self.range[:3], self.range[3:])
        kept = (points[:, :2] >= low[:2]).all(axis=1) & (points[:, :2] <= high[:2]).all(axis=1)
        points = points[kept]
        kept = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(axis=1)
        boxes = np.column_stack([boxes, classes])[kept]
        if self.training:
            if not len(boxes):
                return self[np.random.randint(len(self))]
            points = points[np.random.permutation(len(points))]
        voxels, coords, counts = self.voxelised(points)
        return {"points": points, "gt_boxes": boxes, "voxels": voxels, "voxel_coords": coords, "voxel_num_points": counts,
                "frame_id": name, "image_shape": np.array(info["image"]["image_shape"], np.int32)}  # fmt: skip

    def augment(self, frame, calibration, plane):
        self.sampler(frame, calibration, plane)
        points, boxes = frame["points"], frame["gt_boxes"]
        if np.random.choice([False, True]):
            points[:, 1], boxes[:, 1], boxes[:, 6] = -points[:, 1], -boxes[:, 1], -boxes[:, 6]
        angle = np.random.uniform(*self.steps["random_world_rotation"]["WORLD_ROT_ANGLE"])
        turned(points, angle)
        turned(boxes, angle)
        boxes[:, 6] += angle
        scale = np.random.uniform(*self.steps["random_world_scaling"]["WORLD_SCALE_RANGE"])
        points[:, :3] *= scale
        boxes[:, :6] *= scale


def collate(frames):
    batch = {"batch_size": len(frames)}
    for key in ("voxels", "voxel_num_points"):
        batch[key] = np.concatenate([frame[key] for frame in frames])
    for key in ("points", "voxel_coords"):
        parts = [np.pad(frame[key], ((0, 0), (1, 0)), constant_values=at) for at, frame in enumerate(frames)]
        batch[key] = np.concatenate(parts)
    batch["gt_boxes"] = np.zeros((len(frames), max(len(frame["gt_boxes"]) for frame in frames), 8), np.float32)
    for at, frame in enumerate(frames):
        batch["gt_boxes"][at, : len(frame["gt_boxes"])] = frame["gt_boxes"]
    return batch | {key: np.stack([frame[key] for frame in frames]) for key in ("frame_id", "image_shape")}


def tensors(frames):
    """As torch tensors, which go between processes in shared memory: what OpenPCDet does not do."""
    return {key: torch.from_numpy(value) if key not in ("batch_size", "frame_id") else value for key, value in collate(frames).items()}


def build(args):
    loader = DataLoader(
        Kitti(pathlib.Path(args.data)), args.batch_size, shuffle=True, num_workers=args.workers, persistent_workers=True,
        prefetch_factor=4, worker_init_fn=one_thread, collate_fn=tensors if args.rival.endswith("-tensors") else collate,
    )  # fmt: skip
    return lambda: (batch["gt_boxes"][:, :1] for batch in loader)


def check(root):
    from feedline.recipes.lidar import build_dataloader, cfg_from_yaml_file, Config

    cfg = cfg_from_yaml_file(str(root / "pointpillar.yaml"), Config())
    _, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 4, False, training=False)
    frames, rival, seen = iter(loader), Kitti(root, training=False), 0
    for batch, first in zip(frames, range(0, 20, 4)):
        theirs = collate([rival[at] for at in range(first, first + 4)])
        for key in ("points", "voxels", "voxel_coords", "voxel_num_points"):
            assert np.array_equal(batch[key], theirs[key]), key
        assert np.abs(batch["gt_boxes"] - theirs["gt_boxes"]).max() < 1e-5
        seen += len(theirs["voxels"])
    rival.training = True
    drawn = [rival[at] for at in range(32)]
    _, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 32, False, training=True)
    ours = next(iter(loader))
    print(f"20 evaluation frames with {seen} voxels are the same")
    print(f"mean of 32 training frames, rival and Feedline: {np.mean([len(one['points']) for one in drawn]):.0f} and "
          f"{len(ours['points']) / 32:.0f} points, {np.mean([len(one['gt_boxes']) for one in drawn]):.1f} and "
          f"{(ours['gt_boxes'][:, :, 7] > 0).sum() / 32:.1f} boxes, {np.mean([len(one['voxels']) for one in drawn]):.0f} and "
          f"{len(ours['voxels']) / 32:.0f} voxels")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(pathlib.Path(sys.argv[2]))
    else:
        run(build)
