"""A network with weights as an explainer: built-in attention or Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fer_edge.errors import BackendError, lookup
from fer_edge.explanation import METHODS, Explained
from fer_edge.export.explanation.attention import AttentionOptions, attention_maps
from fer_edge.export.explanation.gradcam import grad_cam
from fer_edge.export.weights import TrainedNetwork
from fer_edge.guard import Guard


class NetworkExplainer:
    """See :class:`fer_edge.explanation.Explainer`; runs in PyTorch.

    Parameters
    ----------
    trained : TrainedNetwork
        Network, weights and spec.
    method : {"attention", "gradcam"}
        What the maps are.
    options : AttentionOptions, optional
        Which attention.
    temperature : float
        What logits are divided by, as in the bundle of these weights.
    """

    def __init__(
        self,
        trained: TrainedNetwork,
        method: str = "gradcam",
        options: AttentionOptions | None = None,
        temperature: float = 1.0,
    ) -> None:
        lookup(METHODS, method, "method")
        self.spec = trained.spec
        self.method = method
        self.random_weights = trained.provenance.get("weights") == "random"
        # In turn: Grad-CAM reads inner values by hooks, which would see those of every thread.
        self._module = Guard(trained.module.eval(), "explainer", BackendError)
        self._options = options
        self._temperature = temperature

    def explain(self, batch: np.ndarray, classes: Sequence[int] | None = None) -> Explained:
        """See :class:`fer_edge.explanation.Explainer`."""
        tensor = torch.from_numpy(batch)
        with self._module as module:
            return self._explain(module, tensor, classes)

    def _explain(self, module: nn.Module, tensor: torch.Tensor, classes: Sequence[int] | None) -> Explained:
        with torch.no_grad():
            outputs = module(tensor)
        named = dict(
            zip(
                self.spec.outputs,
                [outputs] if isinstance(outputs, torch.Tensor) else list(outputs),
                strict=True,
            )
        )
        if self.method == "gradcam":
            maps = grad_cam(module, tensor, classes).maps
        else:
            maps = attention_maps(module, tensor, self._options)
        landmarks = named.get("landmarks")
        return Explained(
            named["logits"].numpy() / self._temperature,
            maps.numpy(),
            None if landmarks is None else landmarks.numpy(),
        )

    def close(self) -> None:
        """See :class:`fer_edge.explanation.Explainer`."""
        self._module.close()
