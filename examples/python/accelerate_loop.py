"""Feedline under accelerate.

    accelerate launch --num_processes 2 accelerate_loop.py FOLDER [--epochs 2]

On CPUs that starts one process; ``torchrun --nproc-per-node 2`` starts two, with ACCELERATE_USE_CPU=true. FOLDER holds CLASS/*.jpg. ``accelerator.prepare`` deals the batches of torch's loaders to the processes. Feedline's loader
has done that by itself: prepare hands it back as it is, and batches only have to be moved to the device.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

import feedline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--save", type=Path, help="folder for a checkpoint after each epoch; gone on from if it is there")
args = parser.parse_args()

accelerator = Accelerator()  # before the loader, which asks the process group for its rank
source = feedline.images(args.folder).random_resized_crop(32).hflip().normalize()
loader = feedline.DataLoader(source, batch_size=6, shuffle=True, drop_last=True)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, len(source.classes)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
# The loader has state_dict and load_state_dict, so accelerator.save_state keeps its place with the rest.
accelerator.register_for_checkpointing(loader)
if args.save and args.save.is_dir():
    accelerator.load_state(args.save)

for epoch in range(loader.epoch, args.epochs):
    for step, batch in enumerate(loader, 1):
        images, labels = batch.to(accelerator.device)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    mean = accelerator.reduce(loss.detach(), "mean")
    accelerator.print(
        f"epoch {epoch + 1} on {accelerator.num_processes} processes: {step} steps, loss of the last {mean.item():.3f}"
    )
    if args.save:
        accelerator.save_state(args.save)
accelerator.end_training()
