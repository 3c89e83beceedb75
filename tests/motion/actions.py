"""Which action does a clip show? A small 3-D CNN on differences of grey frames, so that only motion can be judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Clips = Callable[[int], tuple[Tensor, Tensor]]  # number -> videos (N, C, T, H, W) in [-1, 1], classes (N,)


def motion(videos: Tensor) -> Tensor:
    """Differences of grey frames ``(N, 1, T - 1, H, W)``; a still picture gives zeros."""
    grey = videos.mean(1, keepdim=True)
    return (grey[:, :, 1:] - grey[:, :, :-1]) * 4


class ActionClassifier(nn.Module):
    """Four 3-D convolutions on frame differences, global average, linear."""

    def __init__(self, classes: int, width: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for level, outputs in enumerate((width, 2 * width, 4 * width, 4 * width)):
            stride = (1 if level == 0 else 2, 2, 2)
            layers += [nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(inputs, classes))

    def forward(self, differences: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of what :func:`motion` returns."""
        return self.head(self.body(differences).mean((2, 3, 4)))


def shifted(differences: Tensor, generator: torch.Generator, most: int = 3) -> Tensor:
    """Each clip moved by up to ``most`` pixels and scaled in contrast."""
    height, width = differences.shape[-2:]
    clips = []
    for clip in F.pad(differences, (most,) * 4):
        down, right = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
        contrast = 0.6 + 0.8 * float(torch.rand((), generator=generator))
        clips.append(clip[..., down : down + height, right : right + width] * contrast)
    return torch.stack(clips)


def train_classifier(clips: Clips, classes: int, steps: int = 300, batch: int = 16, seed: int = 0) -> ActionClassifier:
    """Train on real clips; ``clips`` draws start and flip, this adds shift, contrast and noise."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier = ActionClassifier(classes)
    optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        videos, labels = clips(batch)
        noisy = videos + 0.03 * torch.randn(videos.shape, generator=generator)
        loss = F.cross_entropy(classifier(shifted(motion(noisy), generator)), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: ActionClassifier, videos: Tensor, labels: Tensor) -> float:
    """Share of clips that are named as ``labels``."""
    named = torch.cat([classifier(motion(part)).argmax(1) for part in videos.split(64)])
    return float((named == labels).float().mean())
