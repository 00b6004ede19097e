"""Feedline under Lightning, whose checkpoints keep the loader's place, in the middle of an epoch too.

    python lightning_module.py FOLDER [--epochs 2] [--resume last.ckpt]

FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg. ``use_distributed_sampler=False`` says that ranks are dealt with:
Feedline asks the process group which one this is.
"""

import argparse
from pathlib import Path

import lightning
import torch

import feedline


class PicturesModule(lightning.LightningDataModule):
    def __init__(self, folder, batch_size=12, size=32):
        super().__init__()
        self.folder, self.batch_size, self.size = Path(folder), batch_size, size

    def train_dataloader(self):
        # It counts the epochs by itself, and Lightning keeps its state_dict() with the rest.
        source = feedline.images(self.folder / "train").random_resized_crop(self.size).hflip().normalize()
        return feedline.DataLoader(source, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        source = feedline.images(self.folder / "test").resize(self.size).center_crop(self.size).normalize()
        return feedline.DataLoader(source, self.batch_size)


class Linear(lightning.LightningModule):
    def __init__(self, features, classes):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, classes))

    def training_step(self, batch, _):
        images, labels = batch
        loss = torch.nn.functional.cross_entropy(self.model(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, _):
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--resume")
    args = parser.parse_args()
    trainer = lightning.Trainer(max_epochs=args.epochs, logger=False, use_distributed_sampler=False)
    data = PicturesModule(args.folder)
    classes = len(list((data.folder / "train").iterdir()))
    trainer.fit(Linear(3 * data.size**2, classes), datamodule=data, ckpt_path=args.resume)
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
