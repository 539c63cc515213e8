"""A network with weights as an explainer: built-in attention or Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fer_edge._utils.guard import Guard
from fer_edge.errors import BackendError, lookup
from fer_edge.explanation.explain import METHODS, ExplainerOutput
from fer_edge.export.explanation.attention import AttentionOptions, attention_maps
from fer_edge.export.explanation.gradcam import grad_cam
from fer_edge.export.weights import TrainedNetwork
from fer_edge.probabilities import ProbabilityRule, make_rule


class NetworkExplainer:
    """Explainer that computes attention or Grad-CAM maps in PyTorch.

    Parameters
    ----------
    trained : TrainedNetwork
        Network, weights and spec.
    method : {"attention", "gradcam"}
        Kind of maps.
    options : AttentionOptions, optional
        Selection of the attention map.
    rule : ProbabilityRule, optional
        Turns logits into probabilities; the rule of the weights if left out.
    """

    def __init__(
        self,
        trained: TrainedNetwork,
        method: str = "gradcam",
        options: AttentionOptions | None = None,
        rule: ProbabilityRule | None = None,
    ) -> None:
        lookup(METHODS, method, "method")
        self.spec = trained.spec
        self.method = method
        self.random_weights = trained.provenance.get("weights") == "random"
        # One thread at a time: the hooks of Grad-CAM would see the values of every thread.
        self._module = Guard(trained.module.eval(), "explainer", BackendError)
        self._options = options
        self.rule = make_rule(trained) if rule is None else rule

    def explain(self, batch: np.ndarray, classes: Sequence[int] | None = None) -> ExplainerOutput:
        tensor = torch.from_numpy(batch)
        with self._module as module:
            return self._explain(module, tensor, classes)

    def _explain(
        self, module: nn.Module, tensor: torch.Tensor, classes: Sequence[int] | None
    ) -> ExplainerOutput:
        with torch.no_grad():
            outputs = module(tensor)
        named = dict(
            zip(
                self.spec.outputs,
                [outputs] if isinstance(outputs, torch.Tensor) else list(outputs),
                strict=True,
            )
        )
        probabilities = self.rule(named["logits"].numpy())
        if self.method == "gradcam":
            if classes is None:  # the likeliest under the prior, not always the largest raw logit
                classes = probabilities.argmax(axis=1).tolist()
            maps = grad_cam(module, tensor, classes).maps
        else:
            maps = attention_maps(module, tensor, self._options)
        landmarks = named.get("landmarks")
        return ExplainerOutput(
            probabilities,
            maps.numpy(),
            None if landmarks is None else landmarks.numpy(),
        )

    def close(self) -> None:
        self._module.close()
