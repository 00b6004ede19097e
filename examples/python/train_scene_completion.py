"""Trains a small network for semantic scene completion with torch, fed by Feedline: the loop of TorchSSC's train.py.

    feedline demo-data scene_completion --out DIR                                 # or NYU in TorchSSC's layout
    python train_scene_completion.py --data DIR
    torchrun --nproc_per_node 2 train_scene_completion.py --data DIR              # the same batches, on two processes
    python train_scene_completion.py --s3 s3://bucket/nyu

Stopped anywhere, it goes on with exactly the next sample after the last checkpoint, on as many processes as it is then
started on:

    torchrun --nproc_per_node 2 train_scene_completion.py --data DIR -c log/snapshot/epoch-last.pth

Needs torch and feedline. The batch size is that of all processes together.
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from feedline.recipes.scene_completion import (
    Engine,
    NYUv2,
    PolyLR,
    SSCScores,
    config,
    data_setting,
    get_train_loader,
    get_val_loader,
    group_weight,
)


def block(conv, norm, inside, outside, **options):
    return nn.Sequential(conv(inside, outside, bias=False, **options), norm(outside), nn.ReLU(inplace=True))


class Network(nn.Module):
    """Two branches, of what pixels show and of distances; a head for edges of structure, which the head for classes sees."""

    def __init__(self, num_classes, width=16):
        super().__init__()
        flat, deep = (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)
        self.pixels = nn.Sequential(
            block(*flat, 6, width, kernel_size=5, stride=2, padding=2),
            block(*flat, width, width, kernel_size=3, stride=2, padding=1),
        )
        self.distances = block(*deep, 1, width, kernel_size=3, padding=1)
        self.sketch = nn.Conv3d(width, 2, 3, padding=1)
        self.voxels = block(*deep, 2 * width + 2, width, kernel_size=3, padding=1)
        self.semantic = nn.Conv3d(width, num_classes, 1)

    def forward(self, data, hha, tsdf, mapping):
        seen = self.pixels(torch.cat([data, hha], 1))
        batch, channels, rows, columns = seen.shape
        width, none = data.shape[3], data.shape[2] * data.shape[3]
        # Each pixel's place in the features, a quarter of the size; a voxel that no pixel shows has the zeros behind them.
        place = (mapping // width // 4) * columns + mapping % width // 4
        place = torch.where(mapping == none, rows * columns, place)
        seen = torch.cat([seen.flatten(2), seen.new_zeros(batch, channels, 1)], 2)
        seen = seen.gather(2, place[:, None].expand(-1, channels, -1)).view(batch, channels, *tsdf.shape[2:])
        near = self.distances(tsdf)
        sketch = self.sketch(near)
        return self.semantic(self.voxels(torch.cat([seen, near, sketch.softmax(1)], 1))), sketch


def voxel_loss(scores, label, counts):
    """Mean over the voxels that count and whose label is not 255."""
    scores, label = scores.flatten(2).transpose(1, 2)[counts], label.flatten(1)[counts]
    return cross_entropy(scores, label, ignore_index=255, reduction="sum") / (label != 255).sum().clamp(min=1)


def mean_over_ranks(losses):
    """For showing only; gradients are DistributedDataParallel's."""
    losses = losses.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(losses)
        losses /= dist.get_world_size()
    return losses.tolist()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default=config.dataset_path, help="folder with train.txt, test.txt, RGB, HHA, ...")
parser.add_argument("--s3", help="URL below which the data lies instead")
parser.add_argument("--epochs", type=int, default=config.nepochs)
parser.add_argument("--batch-size", type=int, default=config.batch_size, help="of all processes together")
parser.add_argument("--lr", type=float, default=config.lr)
parser.add_argument("--log-dir", default=config.log_dir)
parser.add_argument("--checkpoint-steps", type=int, default=100)
parser.add_argument("--num-workers", type=int)
parser.add_argument("--image", type=int, nargs=2, default=(480, 640), help="height and width, divisible by 4")
parser.add_argument("--grid", type=int, nargs=3, default=(60, 36, 60), help="sides of the voxel grid")

with Engine(custom_parser=parser) as engine:
    args = engine.args
    torch.manual_seed(config.seed)  # the same first weights on every process
    config.dataset_path, config.log_dir = args.data, args.log_dir
    config.image_height, config.image_width = args.image
    config.grid, config.num_workers = args.grid, args.num_workers
    config.batch_size, config.lr, config.nepochs = args.batch_size, args.lr, args.epochs
    config.num_train_imgs = len(NYUv2(data_setting(), "train", s3client=args.s3))
    train_loader, train_sampler = get_train_loader(engine, NYUv2, args.s3)
    val_loader = get_val_loader(engine, NYUv2, args.s3)

    model = network = Network(config.num_classes).to(engine.device)
    if engine.distributed:
        model = nn.parallel.DistributedDataParallel(network)
    groups = group_weight([], network, lr=config.lr)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    lr_policy = PolyLR(config.lr, config.lr_power, config.nepochs * config.niters_per_epoch)
    engine.register_state(dataloader=train_loader, model=model, optimizer=optimizer)
    if engine.continue_state_object:
        engine.restore_checkpoint()
        if engine.rank == 0:
            print(f"Go on at epoch {engine.state.epoch}, iteration {engine.state.iteration} of it")

    for epoch in range(engine.state.epoch, config.nepochs):
        model.train()
        if engine.distributed:
            train_sampler.set_epoch(epoch)
        # Fewer than niters_per_epoch, where this goes on in the middle of an epoch.
        batches_left = train_loader.batches_left
        dataloader = iter(train_loader)
        for _ in range(batches_left):
            minibatch = dataloader.next().to(engine.device, non_blocking=True)
            engine.update_iteration(epoch, minibatch.step)
            lr = lr_policy.get_lr(epoch * config.niters_per_epoch + minibatch.step)
            for group in optimizer.param_groups:
                group["lr"] = lr

            scores, sketch = model(
                minibatch["data"], minibatch["hha_img"], minibatch["tsdf"], minibatch["depth_mapping_3d"]
            )
            counts = minibatch["label_weight"] != 0
            loss_semantic = voxel_loss(scores, minibatch["label"], counts)
            loss_sketch = voxel_loss(sketch, minibatch["sketch_gt"], counts)
            loss = loss_semantic + config.sketch_weight * loss_sketch
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            total, semantic, edges = mean_over_ranks(torch.stack([loss, loss_semantic, loss_sketch]))
            if engine.rank == 0:
                print(
                    f"Epoch{epoch}/{config.nepochs} Iter{minibatch.step + 1}/{config.niters_per_epoch}: "
                    f"lr={lr:.2e} loss={total:.5f} semantic={semantic:.5f} sketch={edges:.5f}", flush=True
                )  # fmt: skip
            if (minibatch.step + 1) % args.checkpoint_steps == 0:
                engine.save_and_link_checkpoint(config.snapshot_dir)
        if (epoch + 1) % config.snapshot_iter == 0 or epoch + 1 == config.nepochs:
            engine.save_and_link_checkpoint(config.snapshot_dir, config.log_dir, config.log_dir_link)

    # Every sample of the other list once, however many processes there are.
    figures = SSCScores(config.num_classes, config.image_height * config.image_width)
    network.eval()
    with torch.no_grad():
        for minibatch in val_loader:
            minibatch = minibatch.to(engine.device)
            mapping = minibatch["depth_mapping_3d"]
            scores, _ = network(minibatch["data"], minibatch["hha_img"], minibatch["tsdf"], mapping)
            figures.update(scores.argmax(1).flatten(1), minibatch["label"], minibatch["label_weight"], mapping)
    figures.all_reduce()
    if engine.rank == 0:
        print(f"SSC mIoU {figures.ssc_miou:.4f}, SC IoU {figures.sc_iou:.4f}, precision {figures.sc_precision:.4f}, "
              f"recall {figures.sc_recall:.4f}")  # fmt: skip
