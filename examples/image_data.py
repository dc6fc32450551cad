"""Images for a search: scikit-learn's digits, plain or scattered, or any folder that torchvision's `ImageFolder` reads.

A search needs three parts that share no image: `weights` trains the network's weights, `architecture` its
architecture weights, `validation` tells how well both did.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits as load_sklearn_digits
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

HELD_OUT = 0.2
"""The share of all images that goes to `validation`; the search gets the rest, half and half."""

DIGIT = 16
"""The side of a scattered digit."""

NOISE = 0.25
"""The standard deviation of the noise around it; a digit itself goes from 0 to 1."""


@dataclass(frozen=True)
class SearchData:
    """The three parts, and what a network must know to read them."""

    weights: Dataset
    architecture: Dataset
    validation: Dataset
    in_channels: int
    num_classes: int

    def search_loader(self, part: Dataset, batch: int, seed: int) -> DataLoader:
        """Return shuffled batches of exactly `batch` images: f32[batch,in_channels,H,W] and i64[batch].

        Raises:
            ValueError: the part does not fill one batch.
        """
        if len(part) < batch:
            raise ValueError(
                f"a batch of {batch} images is more than the {len(part)} that each half of the search has; "
                "give a smaller batch or more images"
            )
        return DataLoader(part, batch, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed))

    def validation_loader(self, batch: int) -> DataLoader:
        """Return the held-out images in order; the last batch may be smaller."""
        return DataLoader(self.validation, batch)


def load_digits(image_size: int = 8, seed: int = 0) -> SearchData:
    """Return scikit-learn's 1,797 handwritten digits, grey, with mean 0 and standard deviation 1.

    Args:
        image_size: side of the images; they are 8 by nature and interpolated to any other.
        seed: decides which image goes to which part.
    """
    digits = load_sklearn_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1)  # f32[1797,1,8,8]
    images = (images - images.mean()) / images.std()
    if image_size != images.shape[-1]:
        images = F.interpolate(images, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return _split(TensorDataset(images, torch.from_numpy(digits.target)), 1, len(digits.target_names), seed)


def load_scattered_digits(image_size: int = 24, seed: int = 0) -> SearchData:
    """Return the same digits, each at twice its size, somewhere on an image full of noise.

    Plain digits are learnt within a few steps by whatever network; these take a search some time.

    Args:
        image_size: side of the images, at least 16.
        seed: decides places and noise, and which image goes to which part.

    Raises:
        ValueError: the images are smaller than the digits.
    """
    if image_size < DIGIT:
        raise ValueError(f"a scattered digit has {DIGIT} pixels a side, found images of {image_size}")
    digits = load_sklearn_digits()
    generator = torch.Generator().manual_seed(seed)
    plain = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # f32[1797,1,8,8], from 0 to 1
    large = F.interpolate(plain, size=(DIGIT, DIGIT), mode="bilinear", align_corners=False)
    images = NOISE * torch.randn(len(large), 1, image_size, image_size, generator=generator)
    places = torch.randint(image_size - DIGIT + 1, (len(large), 2), generator=generator).tolist()
    for image, digit, (top, left) in zip(images, large, places, strict=True):
        image[:, top : top + DIGIT, left : left + DIGIT] += digit
    images = (images - images.mean()) / images.std()
    return _split(TensorDataset(images, torch.from_numpy(digits.target)), 1, len(digits.target_names), seed)


def load_folder(root: Path, image_size: int = 32, seed: int = 0, *, in_memory: bool = False) -> SearchData:
    """Return the images below a folder, read when needed, in RGB from about -2 to 2.

    Args:
        root: a folder with one folder a class, or one whose `train` is such a folder.
        image_size: side to which each image is resized.
        seed: decides which image goes to which part.
        in_memory: read all images now, once for all calls of this process.

    Raises:
        ValueError: there is no such folder, or what is in it is not at least two classes of images.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; give one that has a folder of images for each class")
    train = root / "train"  # unless `train` is itself a class, full of images
    if train.is_dir() and any(child.is_dir() for child in train.iterdir()):
        root = train
    try:
        folder = _folder(root, image_size)
    except FileNotFoundError as error:
        raise ValueError(f"{root} is not one folder of images for each class: {error}") from error
    if len(folder.classes) < 2:
        raise ValueError(f"{root} has only the class {folder.classes[0]!r}; a search needs at least two")
    return _split(_in_memory(root, image_size) if in_memory else folder, 3, len(folder.classes), seed)


def _folder(root: Path, image_size: int) -> ImageFolder:
    transform = Compose([Resize((image_size, image_size)), ToTensor(), Normalize([0.5] * 3, [0.25] * 3)])
    return ImageFolder(str(root), transform)


@functools.cache
def _in_memory(root: Path, image_size: int) -> TensorDataset:
    images, targets = zip(*_folder(root, image_size), strict=True)
    return TensorDataset(torch.stack(images), torch.tensor(targets))


def _split(dataset: Dataset, in_channels: int, num_classes: int, seed: int) -> SearchData:
    held_out = max(1, round(HELD_OUT * len(dataset)))
    half = (len(dataset) - held_out) // 2
    sizes = [half, half, len(dataset) - 2 * half]
    weights, architecture, validation = random_split(dataset, sizes, torch.Generator().manual_seed(seed))
    return SearchData(weights, architecture, validation, in_channels, num_classes)
