"""Train a small QuasarNET on synthetic spectra in about a minute, for where no weights are at hand.

python demo/train_model.py MODEL.onnx

It knows plain synthetic spectra only: it is for the demonstration, never for real sky.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from broadline.decision import Rule
from broadline.finders import encode
from broadline.lines import QUASARNET_LINES
from broadline.model import save_model
from broadline.networks.architecture import Convolution, QuasarNETConfig
from broadline.networks.quasarnet import QuasarNET
from broadline.recipe import Recipe
from broadline.representation import Representation
from synthetic import simulate


def training_set(n: int, represent: Representation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return represented spectra, and box and offset targets (n, lines, boxes)."""
    values, boxes, offsets = [], [], []
    for seed in range(1000, 1000 + n // 500):  # not the seed of the survey
        spectra, z = simulate(500, seed)
        values.append(represent(spectra).values)
        box, offset = encode(np.where(z > 0, z, np.nan), QUASARNET_LINES, represent.grid, 13)
        box[:, [line.bal for line in QUASARNET_LINES]] = -1  # none of these quasars has broad absorption
        boxes.append(np.arange(13) == box[:, :, None])
        offsets.append(np.where(boxes[-1], np.nan_to_num(offset)[:, :, None], 0))
    arrays = (np.concatenate(parts).astype(np.float32) for parts in (values, boxes, offsets))
    x, box, offset = (torch.from_numpy(array) for array in arrays)
    return x, box, offset


def main(path: Path) -> None:
    torch.manual_seed(0)
    represent = Representation()
    config = QuasarNETConfig(convolutions=(Convolution(32),) * 4, hidden=50, hidden_activation="norm-relu")
    network = QuasarNET(config)
    x, box, offset = training_set(10_000, represent)
    epochs, batch = 20, 128
    optimiser = torch.optim.Adam(network.parameters())
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    start = time.time()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x)).split(batch)[: len(x) // batch]:
            y = box[rows]
            confidence, place = network.logits(x[rows])
            found = y.sum().clamp(min=1)
            loss = binary_cross_entropy_with_logits(confidence, y, reduction="sum") / len(rows)
            loss = loss + 5 * (y * (torch.sigmoid(place) - offset[rows]) ** 2).sum() / found
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1:2d} of {epochs}: loss {total / (len(x) // batch):.4f}, "
            f"{time.time() - start:.0f} s"
        )
    card = {
        "trained_on": f"{len(x)} plain synthetic spectra (demo/synthetic.py)",
        "use": "demonstration only",
    }
    save_model(
        path, Recipe("demo", config, represent, QUASARNET_LINES, Rule(), card), network.parameters_by_name()
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
