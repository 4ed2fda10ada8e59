"""Coloured shapes, and a network of images and text that learns in seconds what they are called."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import cross_entropy, normalize

from tests.clips import new_clip, save_clip, tokenizer_of

COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 220)}
SHAPES = ("circle", "cross")
KINDS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
SIDE = 32
RESNET = {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}


def shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """A circle or a cross on noisy grey, of some size and anywhere."""
    colour, form = kind.split()
    image = Image.fromarray(rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8))
    size = int(rng.integers(14, 24))
    left, top = rng.integers(0, SIDE - size, 2).tolist()
    right, bottom, x, y = left + size, top + size, left + size // 2, top + size // 2
    draw = ImageDraw.Draw(image)
    if form == "circle":
        draw.ellipse((left, top, right, bottom), fill=COLOURS[colour])
    else:
        draw.rectangle((left, y - 2, right, y + 2), fill=COLOURS[colour])
        draw.rectangle((x - 2, top, x + 2, bottom), fill=COLOURS[colour])
    return image


def trained_clip(folder, steps: int = 70) -> str:
    """Learn from pairs of a shape and its name, as CLIP does; returns the network's name."""
    torch.manual_seed(0)
    model, rng = new_clip(folder, RESNET), np.random.default_rng(0)
    tokens = tokenizer_of(folder)(KINDS)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.visual.image_mean, model.visual.image_std))
    torch.nn.init.normal_(model.token_embedding.weight, std=0.3)  # it stays as it is: most tokens never occur
    used = [value for name, value in model.named_parameters() if "token_embedding" not in name]
    optimizer = torch.optim.Adam(used, lr=2e-3)
    model.train()
    for _ in range(steps):
        kinds = rng.integers(0, len(KINDS), 48)
        pixels = np.stack([np.asarray(shape(KINDS[kind], rng)) for kind in kinds])
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        scale, texts = model.logit_scale.exp(), normalize(model.encode_text(tokens))
        logits = scale * normalize(model.encode_image(images)) @ texts.T
        right = torch.from_numpy(kinds)
        each_text = logits.log_softmax(0).gather(1, right[:, None]).mean()  # among images, as each image among texts
        loss = cross_entropy(logits, right) - each_text
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return save_clip(model, folder)
