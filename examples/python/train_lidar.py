"""Trains a small PointPillars with torch, fed by Feedline in the words of OpenPCDet: build_dataloader, batch_dict, evaluation.

    feedline demo-data lidar --out DIR                                # or KITTI, after feedline lidar infos --data DIR
    python train_lidar.py --data DIR
    torchrun --nproc_per_node 2 train_lidar.py --data DIR             # the same order, dealt to two processes
    python train_lidar.py --data s3://bucket/kitti
    python train_lidar.py --cfg_file kitti_models/pointpillar.yaml --set DATA_CONFIG.DATA_PATH DIR

Stopped anywhere, it goes on with exactly the next sample after the last checkpoint, on as many processes as it is then
started on: --ckpt output/checkpoint.pth. Needs torch and feedline. The batch size is that of each process.
"""

import argparse
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from feedline.recipes.lidar import (
    Config,
    build_dataloader,
    cfg_from_list,
    cfg_from_yaml_file,
    get_dist_info,
    load_data_to_gpu,
    merge_results_dist,
)

FEATURES = ["x", "y", "z", "intensity"]
SETTINGS = {
    "CLASS_NAMES": ["Car", "Pedestrian", "Cyclist"],
    "DATA_CONFIG": {
        "DATASET": "KittiDataset",
        "DATA_PATH": "data/kitti",
        "POINT_CLOUD_RANGE": [0, -39.68, -3, 69.12, 39.68, 1],
        "DATA_SPLIT": {"train": "train", "test": "val"},
        "INFO_PATH": {"train": ["kitti_infos_train.pkl"], "test": ["kitti_infos_val.pkl"]},
        "FOV_POINTS_ONLY": True,
        "DATA_AUGMENTOR": {
            "DISABLE_AUG_LIST": ["placeholder"],
            "AUG_CONFIG_LIST": [
                {
                    "NAME": "gt_sampling",
                    "USE_ROAD_PLANE": False,
                    "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
                    "PREPARE": {
                        "filter_by_min_points": ["Car:5", "Pedestrian:5", "Cyclist:5"],
                        "filter_by_difficulty": [-1],
                    },
                    "SAMPLE_GROUPS": ["Car:15", "Pedestrian:10", "Cyclist:10"],
                    "NUM_POINT_FEATURES": 4,
                    "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
                    "LIMIT_WHOLE_SCENE": True,
                },
                {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]},
                {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78539816, 0.78539816]},
                {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.95, 1.05]},
            ],
        },
        "POINT_FEATURE_ENCODING": {
            "encoding_type": "absolute_coordinates_encoding",
            "used_feature_list": FEATURES,
            "src_feature_list": FEATURES,
        },
        "DATA_PROCESSOR": [
            {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
            {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}},
            {
                "NAME": "transform_points_to_voxels",
                "VOXEL_SIZE": [0.32, 0.32, 4],
                "MAX_POINTS_PER_VOXEL": 32,
                "MAX_NUMBER_OF_VOXELS": {"train": 16000, "test": 40000},
            },
        ],
    },
    "OPTIMIZATION": {"NUM_EPOCHS": 80, "BATCH_SIZE_PER_GPU": 4, "LR": 0.003, "WEIGHT_DECAY": 0.01, "GRAD_NORM_CLIP": 10},
}


def convolution(inside, outside, stride=1):
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside, eps=1e-3), nn.ReLU(inplace=True)
    )


class PointPillars(nn.Module):
    """Pillars to a picture from above, half its size: for each cell how likely the middle of an object of each class is there,
    and its box: offset of the middle, z, logarithms of the sizes, sine and cosine of the heading.
    """

    def __init__(self, num_class, dataset, width=32):
        super().__init__()
        self.voxel = torch.tensor(dataset.voxel_size)
        self.low = torch.tensor(dataset.point_cloud_range[:3])
        self.columns, self.rows = (int(side) for side in dataset.grid_size[:2])
        features = dataset.point_feature_encoder.num_point_features + 5
        self.points = nn.Sequential(nn.Linear(features, width, bias=False), nn.BatchNorm1d(width, eps=1e-3), nn.ReLU())
        self.near = nn.Sequential(convolution(width, width, 2), convolution(width, width), convolution(width, width))
        self.far = nn.Sequential(convolution(width, 2 * width, 2), convolution(2 * width, 2 * width))
        self.grown = nn.Sequential(nn.ConvTranspose2d(2 * width, width, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.shared = convolution(2 * width, 2 * width)
        self.heat, self.boxes = nn.Conv2d(2 * width, num_class, 1), nn.Conv2d(2 * width, 8, 1)
        nn.init.constant_(self.heat.bias, -4.6)  # a hundredth: nearly all cells are empty

    def forward(self, batch):
        points, counts = batch["voxels"], batch["voxel_num_points"]
        coords = batch["voxel_coords"].long()
        real = torch.arange(points.shape[1], device=points.device) < counts[:, None]
        mean = (points[..., :3] * real[..., None]).sum(1) / counts[:, None]
        low, voxel = self.low.to(points), self.voxel.to(points)
        middle = (coords[:, [3, 2]] + 0.5) * voxel[:2] + low[:2]
        seen = torch.cat([points, points[..., :3] - mean[:, None], points[..., :2] - middle[:, None]], 2)
        pillars = points.new_zeros(*real.shape, self.points[0].out_features)
        pillars[real] = self.points(seen[real]).to(pillars.dtype)
        pillars = pillars.amax(1)  # none is below 0
        plane = pillars.new_zeros(batch["batch_size"], self.rows, self.columns, pillars.shape[1])
        plane[coords[:, 0], coords[:, 2], coords[:, 3]] = pillars
        near = self.near(plane.permute(0, 3, 1, 2))
        far = functional.interpolate(self.grown(self.far(near)), size=near.shape[2:])
        shared = self.shared(torch.cat([near, far], 1))
        return self.heat(shared), self.boxes(shared)

    def cell(self, values):
        """Sides of a cell of the output, in metres."""
        return 2 * self.voxel[:2].to(values)

    def loss(self, heat, boxes, gt_boxes):
        """Focal loss of the middles, and the mean difference of the boxes there."""
        goal = torch.zeros_like(heat)
        rows, columns = torch.meshgrid(*(torch.arange(side, device=heat.device) for side in heat.shape[2:]), indexing="ij")
        number, object_of = torch.nonzero(gt_boxes[..., 7] > 0, as_tuple=True)
        gt = gt_boxes[number, object_of]
        place = (gt[:, :2] - self.low[:2].to(gt)) / self.cell(gt)
        column, row = place[:, 0].long().clamp(0, heat.shape[3] - 1), place[:, 1].long().clamp(0, heat.shape[2] - 1)
        kind = gt[:, 7].long() - 1
        for at in range(len(gt)):
            # Near the middle is not quite wrong.
            spread = max(float(gt[at, 3:5].mean() / self.cell(gt)[0]) / 3, 0.7)
            hill = torch.exp(-((columns - column[at]) ** 2 + (rows - row[at]) ** 2) / (2 * spread**2))
            torch.maximum(goal[number[at], kind[at]], hill, out=goal[number[at], kind[at]])
        likely = heat.float().sigmoid().clamp(1e-4, 1 - 1e-4)
        middles = goal == 1
        found = (1 - likely) ** 2 * likely.log() * middles + (1 - goal) ** 4 * likely**2 * (1 - likely).log() * ~middles
        offset = place - torch.stack([column, row], 1) - 0.5
        heading = torch.stack([gt[:, 6].sin(), gt[:, 6].cos()], 1)
        wanted = torch.cat([offset, gt[:, 2:3], gt[:, 3:6].log(), heading], 1)
        apart = functional.l1_loss(boxes.float()[number, :, row, column], wanted, reduction="sum")
        return -found.sum() / max(len(gt), 1), apart / max(8 * len(gt), 1)

    def decode(self, heat, boxes, most=100, least=0.05):
        """`pred_dicts`, as OpenPCDet's networks give them: the highest places that are higher than all around them."""
        likely = heat.float().sigmoid()
        likely = likely * (functional.max_pool2d(likely, 5, 1, 2) == likely)
        dicts = []
        for each, numbers in zip(likely, boxes.float()):
            scores, places = each.flatten().topk(most)
            scores, places = scores[scores > least], places[scores > least]
            kind, cell = places // each[0].numel(), places % each[0].numel()
            row, column = cell // each.shape[2], cell % each.shape[2]
            own = numbers[:, row, column].T
            middle = (torch.stack([column, row], 1) + 0.5 + own[:, :2]) * self.cell(own) + self.low[:2].to(own)
            heading = torch.atan2(own[:, 6:7], own[:, 7:8])
            found = torch.cat([middle, own[:, 2:3], own[:, 3:6].clamp(max=4).exp(), heading], 1)
            dicts.append({"pred_boxes": found, "pred_scores": scores, "pred_labels": kind + 1})
        return dicts


def one_cycle(step, total, low, high, start=0.4):
    """From `low` to `high` by a cosine in the first part, and down again to next to nothing."""
    begun = int(total * start)
    if step < begun:
        return high + (low - high) / 2 * (math.cos(math.pi * step / begun) + 1)
    end = low / 1e4
    return end + (high - end) / 2 * (math.cos(math.pi * (step - begun) / max(total - begun, 1)) + 1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder or URL of the data set, if not DATA_PATH of the settings")
    parser.add_argument("--cfg_file", help="a YAML file of OpenPCDet's; its MODEL is not looked at")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch_size", type=int, help="of each process")
    parser.add_argument("--workers", type=int, default=4, help="threads of each process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="output")
    parser.add_argument("--ckpt", help="a checkpoint to go on from")
    parser.add_argument("--ckpt_save_steps", type=int, default=200)
    parser.add_argument("--use_amp", action="store_true")
    parser.add_argument("--merge_all_iters_to_one_epoch", action="store_true")
    parser.add_argument("--set", dest="set_cfgs", nargs=argparse.REMAINDER, default=[], help="names and values of settings")
    args = parser.parse_args()
    cfg = cfg_from_yaml_file(args.cfg_file) if args.cfg_file else Config(SETTINGS)
    cfg_from_list(args.set_cfgs, cfg)
    args.epochs = args.epochs or cfg.OPTIMIZATION.NUM_EPOCHS
    args.batch_size = args.batch_size or cfg.OPTIMIZATION.BATCH_SIZE_PER_GPU
    return args, cfg


def save(path, **state):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".new"), "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".new"), path)


def train(args, cfg, model, network, optimizer, loader, sampler, device):
    rank, _ = get_dist_info()
    optimization, step, first = cfg.OPTIMIZATION, 0, 0
    scaler = torch.amp.GradScaler(device.type, enabled=args.use_amp and device.type == "cuda")
    if args.ckpt:
        state = torch.load(args.ckpt, map_location=device, weights_only=True)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        loader.load_state_dict(state["loader"])
        step, first = state["step"], loader.epoch
    merged = args.merge_all_iters_to_one_epoch
    epochs = range(first, 1 if merged else args.epochs)
    total = len(loader) * (1 if merged else args.epochs)
    for epoch in epochs:
        model.train()
        if sampler is not None:
            sampler.set_epoch(epoch)
        for batch_dict in loader:
            lr = one_cycle(step, total, optimization.LR / 10, optimization.LR)
            for group in optimizer.param_groups:
                group["lr"] = lr
            load_data_to_gpu(batch_dict, device)
            with torch.autocast(device.type, enabled=args.use_amp):
                heat, boxes = model(batch_dict)
            heat_loss, box_loss = network.loss(heat, boxes, batch_dict["gt_boxes"])
            loss = heat_loss + 2 * box_loss
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), optimization.GRAD_NORM_CLIP)
            scaler.step(optimizer)
            scaler.update()
            step += 1
            last = step == total
            if rank == 0 and (step % 10 == 1 or last):
                print(f"epoch {epoch} step {step}/{total}: loss {loss.item():.4f} (middles {heat_loss.item():.4f}, boxes "
                      f"{box_loss.item():.4f}), lr {lr:.2e}, objects {int((batch_dict['gt_boxes'][..., 7] > 0).sum())}", flush=True)  # fmt: skip
            if rank == 0 and (step % args.ckpt_save_steps == 0 or last):
                save(
                    Path(args.output) / "checkpoint.pth", model=network.state_dict(), optimizer=optimizer.state_dict(),
                    scaler=scaler.state_dict(), loader=loader.state_dict(), step=step,
                )  # fmt: skip


def evaluate(args, cfg, network, dist_on, device):
    """Each frame once, whatever the number of processes; the figures on the first of them."""
    dataset, loader, _ = build_dataloader(
        cfg.DATA_CONFIG, cfg.CLASS_NAMES, args.batch_size, dist_on, args.data, args.workers, training=False
    )
    network.eval()
    annos = []
    for batch_dict in loader:
        load_data_to_gpu(batch_dict, device)
        with torch.no_grad():
            found = network.decode(*network(batch_dict))
        annos += dataset.generate_prediction_dicts(batch_dict, found, dataset.class_names)
    annos = merge_results_dist(annos, len(dataset))
    if annos is not None:
        text, figures = dataset.evaluation(annos, dataset.class_names)
        print(text)
        print(f"evaluated {len(annos)} frames, {len(figures)} figures")


def main():
    args, cfg = arguments()
    dist_on = "RANK" in os.environ
    cuda = torch.cuda.is_available()
    if dist_on:
        dist.init_process_group("nccl" if cuda else "gloo")
    rank, _ = get_dist_info()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()) if cuda else torch.device("cpu")
    torch.manual_seed(args.seed)  # the same first weights on every process
    dataset, loader, sampler = build_dataloader(
        cfg.DATA_CONFIG,
        cfg.CLASS_NAMES,
        args.batch_size,
        dist_on,
        args.data,
        args.workers,
        seed=args.seed,
        merge_all_iters_to_one_epoch=args.merge_all_iters_to_one_epoch,
        total_epochs=args.epochs,
        hook=cfg.get("HOOK"),
    )
    if rank == 0:
        print(f"{len(dataset)} frames to train on, {len(loader)} steps an epoch on each process")
    model = network = PointPillars(len(cfg.CLASS_NAMES), dataset).to(device)
    if dist_on:
        model = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=cfg.OPTIMIZATION.LR, betas=(0.9, 0.99), weight_decay=cfg.OPTIMIZATION.WEIGHT_DECAY
    )
    train(args, cfg, model, network, optimizer, loader, sampler, device)
    evaluate(args, cfg, network, dist_on, device)
    if dist_on:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
