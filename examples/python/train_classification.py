"""Trains an image classifier with torch, fed by Feedline: the loop of bubbliiiing's classification-pytorch train.py.

    python train_classification.py --train cls_train.txt --val cls_test.txt --classes cls_classes.txt
    torchrun --nproc-per-node 2 train_classification.py ...          # the same batches, on two processes

Stopped anywhere, it goes on with exactly the next sample, on as many processes as it is then started on:

    torchrun --nproc-per-node 3 train_classification.py ... --resume

Needs torch, torchvision and feedline. Batch sizes are those of all processes together.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torchvision

from feedline.recipes.classification import (
    DataGenerator,
    LossHistory,
    fit_lr,
    fit_one_epoch,
    get_classes,
    get_lr_scheduler,
    set_optimizer_lr,
)
from feedline.torch import DataLoader

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--train", default="cls_train.txt", help="lines `class;path`")
parser.add_argument("--val", default="cls_test.txt", help="lines `class;path`")
parser.add_argument("--classes", default="model_data/cls_classes.txt", help="one name a line")
parser.add_argument("--backbone", default="mobilenet_v2", help="a model of torchvision with `features`")
parser.add_argument("--weights", default="", help="state dict to begin with")
parser.add_argument("--input-shape", type=int, default=224)
parser.add_argument("--freeze-epoch", type=int, default=50)
parser.add_argument("--freeze-batch-size", type=int, default=32)
parser.add_argument("--unfreeze-epoch", type=int, default=200, help="number of all epochs")
parser.add_argument("--unfreeze-batch-size", type=int, default=32)
parser.add_argument("--no-freeze", dest="freeze_train", action="store_false")
parser.add_argument("--init-lr", type=float, default=1e-2)
parser.add_argument("--lr-decay-type", default="cos", choices=["cos", "step"])
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--fp16", action="store_true", help="autocast and a gradient scaler")
parser.add_argument("--save-period", type=int, default=10)
parser.add_argument("--save-dir", default="logs")
parser.add_argument("--checkpoint-steps", type=int, default=100)
parser.add_argument("--num-workers", type=int, default=None)
parser.add_argument("--resume", action="store_true", help="go on from SAVE_DIR/checkpoint.pt")
args = parser.parse_args()

# Processes: torchrun says how many there are.
cuda = torch.cuda.is_available()
local_rank = int(os.environ.get("LOCAL_RANK", 0))
distributed = "WORLD_SIZE" in os.environ
if cuda:
    torch.cuda.set_device(local_rank)
if distributed:
    dist.init_process_group("nccl" if cuda else "gloo")
rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")

# The model. Every process begins with the same weights: the same seed, or the same file.
torch.manual_seed(11)
class_names, num_classes = get_classes(args.classes)
model = torchvision.models.get_model(args.backbone, weights=None, num_classes=num_classes).to(device)
if args.weights:
    known, given = model.state_dict(), torch.load(args.weights, map_location=device)
    model.load_state_dict({k: given[k] if k in given and given[k].shape == v.shape else v for k, v in known.items()})
model_train = model
if distributed:
    # Freezing changes the set of trained parameters.
    model_train = torch.nn.parallel.DistributedDataParallel(
        model, device_ids=[local_rank] if cuda else None, find_unused_parameters=True
    )
optimizer = torch.optim.SGD(model.parameters(), lr=args.init_lr, momentum=args.momentum, nesterov=True)
scaler = torch.amp.GradScaler(device.type, enabled=args.fp16)

# The data. The order is that of torch's DistributedSampler; the loader counts the epochs, so there is no set_epoch.
train_lines = Path(args.train).read_text("utf-8").splitlines()
val_lines = Path(args.val).read_text("utf-8").splitlines()
input_shape = [args.input_shape, args.input_shape]
train_data = DataGenerator(train_lines, input_shape, random=True)
val_data = DataGenerator(val_lines, input_shape, random=False)


def loaders(batch_size):
    options = {"batch_size": max(1, batch_size // world_size), "num_workers": args.num_workers, "pin_memory": cuda}
    return (
        DataLoader(train_data, shuffle=True, drop_last=True, seed=11, **options),
        # Every validation sample once, however many processes there are.
        DataLoader(val_data, shuffle=False, tail="exact", **options),
    )


def freeze(frozen):
    for parameter in model.features.parameters():
        parameter.requires_grad = not frozen


def phase(epoch):
    """(True if the backbone is frozen in this epoch, the batch size)."""
    frozen = args.freeze_train and epoch < args.freeze_epoch
    return frozen, args.freeze_batch_size if frozen else args.unfreeze_batch_size


# Start a new run, or resume from the last checkpoint.
checkpoint_path = Path(args.save_dir) / "checkpoint.pt"
checkpoint = torch.load(checkpoint_path, map_location=device) if args.resume and checkpoint_path.is_file() else None
loss_history = LossHistory(args.save_dir, model, input_shape) if rank == 0 else None
epoch = 0
if checkpoint is not None:
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scaler.load_state_dict(checkpoint["scaler"])
    if loss_history is not None:
        loss_history.load_state_dict(checkpoint["history"])
    epoch = checkpoint["loader"]["epoch"]
    if rank == 0:
        print(f"Resume at epoch {epoch + 1}, sample {checkpoint['loader']['position']} of it, on {world_size} processes")

frozen, batch_size = phase(epoch)
freeze(frozen)
gen, gen_val = loaders(batch_size)
if checkpoint is not None:
    gen.load_state_dict(checkpoint["loader"])


def save_checkpoint():
    if rank == 0:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "history": loss_history.state_dict(),
            "loader": gen.state_dict(),  # the same on every rank
        }
        checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
        with open(checkpoint_path.with_suffix(".tmp"), "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(checkpoint_path.with_suffix(".tmp"), checkpoint_path)


for epoch in range(epoch, args.unfreeze_epoch):
    if phase(epoch) != (frozen, batch_size):
        state = gen.state_dict()
        frozen, batch_size = phase(epoch)
        freeze(frozen)
        gen, gen_val = loaders(batch_size)
        gen.load_state_dict(state)  # another batch size, the same run
    Init_lr_fit, Min_lr_fit = fit_lr("sgd", batch_size, args.init_lr, args.init_lr * 0.01)
    lr_scheduler_func = get_lr_scheduler(args.lr_decay_type, Init_lr_fit, Min_lr_fit, args.unfreeze_epoch)
    set_optimizer_lr(optimizer, lr_scheduler_func, epoch)

    def on_step(step):
        if (step + 1) % args.checkpoint_steps == 0:
            save_checkpoint()

    fit_one_epoch(
        model_train, model, loss_history, optimizer, epoch, gen.batches_left, len(gen_val), gen, gen_val,
        args.unfreeze_epoch, cuda, args.fp16, scaler, args.save_period, args.save_dir, local_rank, on_step,
    )  # fmt: skip
    save_checkpoint()

if distributed:
    dist.destroy_process_group()
