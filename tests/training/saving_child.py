"""Saves checkpoints into one folder for ever; its parent kills it: ``saving_child.py KIND PLACE``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from training_samples import PROCESSOR, VISION_ONLY, bright_or_dark

from tidegate.models.card import Card
from tidegate.models.checkpoint import save_checkpoint
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.loop import fit
from tidegate.training.recipes import OptimiserConfig

CONFIG = OptimiserConfig(epochs=40, batch_size=4, learning_rate=1e-3, patience=40, save_every_steps=1)


def main() -> None:
    torch.set_num_threads(1)
    kind, place = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(0)
    model, processor = MultiTower(VISION_ONLY), ClipProcessor(PROCESSOR, None)
    if kind == "run":
        fit(model, processor, bright_or_dark(16, 1), bright_or_dark(8, 2), CONFIG, seed=3, resume=place)
        return
    for number in range(1_000_000):
        with torch.no_grad():
            model.head.bias.fill_(float(number))
        save_checkpoint(model, processor, place, Card(name="c", issue="icd", seed=number))


if __name__ == "__main__":
    main()
