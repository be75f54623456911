"""How a network gets better: Adam, a bound on the gradient, and a checkpoint kept by validation.

Early over-fitting is the rule on a few thousand samples of one flight, so the parameters that are kept are those of the
best validation error, never those of the last epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qaios.learning.network import Network, Parameters


def clip(gradients: Parameters, norm_max: float) -> float:
    """Shorten all gradients together, in place, to a length of at most `norm_max`; return the length they had."""
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values())))
    if norm > norm_max:
        for gradient in gradients.values():
            np.multiply(gradient, norm_max / norm, out=gradient)
    return norm


@dataclass(slots=True)
class Adam:
    """Kingma & Ba 2015 (arXiv 1412.6980) with decoupled weight decay (Loshchilov & Hutter 2019) on matrices only."""

    rate: float = 1e-2
    decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    steps: int = 0
    first: Parameters = field(default_factory=dict)
    second: Parameters = field(default_factory=dict)

    def step(self, parameters: Parameters, gradients: Parameters) -> None:
        """Change `parameters` in place, one step against `gradients`."""
        self.steps += 1
        fade1, fade2 = 1.0 - self.beta1**self.steps, 1.0 - self.beta2**self.steps
        for name, value in parameters.items():
            gradient = gradients[name]
            mean = self.first.setdefault(name, np.zeros_like(value))
            square = self.second.setdefault(name, np.zeros_like(value))
            mean += (1.0 - self.beta1) * (gradient - mean)
            square += (1.0 - self.beta2) * (gradient**2 - square)
            if self.decay and value.ndim == 2:
                np.multiply(value, 1.0 - self.rate * self.decay, out=value)
            np.subtract(value, self.rate * (mean / fade1) / (np.sqrt(square / fade2) + 1e-8), out=value)


@dataclass(slots=True)
class Checkpoint:
    """The best parameters seen so far, by validation error."""

    error: float = float("inf")
    epoch: int = -1
    kept: Parameters = field(default_factory=dict)

    def offer(self, network: Network, error: float, epoch: int) -> bool:
        """Keep this network when its error is finite and smaller than the best."""
        if not np.isfinite(error) or error >= self.error:
            return False
        self.error, self.epoch, self.kept = float(error), epoch, network.copy_parameters()
        return True

    def restore(self, network: Network) -> None:
        """Put the best parameters back; a network that was never accepted stays as it is."""
        if self.kept:
            network.set_parameters(self.kept)
