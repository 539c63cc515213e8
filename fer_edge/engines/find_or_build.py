"""The engine of a model for this device: compiled ahead of time, kept in the cache, or compiled now."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fer_edge.bundle import ENGINES, ModelFile
from fer_edge.engines.build.keys import make_key
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.cache.key import EngineKey, identify_gpu
from fer_edge.engines.cache.store import CachedEngine, EngineCache, OnWait
from fer_edge.engines.plugin import find_plugin

# Warnings are shown without any set-up of logging: these explain why a caller waits for minutes.
_LOG = logging.getLogger(__name__)
_LOG_INTERVAL_S = 60


@dataclass(frozen=True)
class EngineRequest:
    """A model for this device, how it is compiled, and where its engine is kept.

    Attributes
    ----------
    model : ModelFile
        The ONNX file.
    options : EngineOptions
        How it is compiled; whether with the plugin is decided.
    plugin : Path or None
        The plugin library, where the engine needs it.
    key : EngineKey
        Names the engine.
    cache : EngineCache
        Where it is built, behind the engines of the model's bundle.
    """

    model: ModelFile
    options: EngineOptions
    plugin: Path | None
    key: EngineKey
    cache: EngineCache

    def find(self) -> CachedEngine | None:
        """Return an engine that need not be compiled."""
        return self._find_ahead_of_time() or self.cache.find(self.key)

    def find_or_build(self) -> CachedEngine:
        """Return an engine, compiled now where there is none; warnings say what takes long.

        Raises
        ------
        EngineError
            If it cannot be compiled, or see :meth:`fer_edge.engines.cache.store.EngineCache.get_or_build`.
        """
        engine = self._find_ahead_of_time() or self.cache.get_or_build(self.key, self._build, _wait_logger())
        if engine.rebuilt_because is not None:
            _LOG.warning("the engine of %s was built again: %s", self.model.path.name, engine.rebuilt_because)
        return engine

    def _find_ahead_of_time(self) -> CachedEngine | None:
        """Return an engine of the bundle that was compiled without a device, with the plugin or without.

        It was compiled for the usual batches, which hold smaller ones.
        """
        key = self.key
        options = {name: value for name, value in key.options.items() if name != "workspace_share"}
        usual = (EngineOptions.min_batch, EngineOptions.opt_batch, EngineOptions.max_batch)
        batches = [key.batches, *([usual] if key.batches[-1] < usual[-1] else [])]
        for plugin, sizes in product(dict.fromkeys((key.plugin, None)), batches):
            found = self.cache.find(
                replace(key, gpu=None, driver=None, plugin=plugin, batches=sizes, options=options)
            )
            if found is not None:
                return found
        return None

    def _build(self, path: Path) -> None:
        from fer_edge.engines.build.builder import build_engine  # needs onnx

        name = self.model.path.name
        _LOG.warning(
            "compiling %s for this device with %s, once; it may take minutes", name, self.options.flavour
        )
        with tempfile.TemporaryDirectory() as folder:  # the compiler reads the bytes that were hashed
            copy = Path(folder) / name
            copy.write_bytes(self.model.content)
            report = build_engine(copy, path, self.options)
        if self.options.dla_core is not None:
            _LOG.warning("TensorRT gives %d of %d layers to the DLA", report.dla_layers, report.layers)


def request_engine(model: ModelFile, options: EngineOptions, version: str) -> EngineRequest:
    """Return the request for an engine of ``model`` on this device.

    The plugin is used where its library is installed and the model has its operator.

    Parameters
    ----------
    model : ModelFile
        The ONNX file.
    options : EngineOptions
        How it is compiled; the choice of the plugin counts for nothing.
    version : str
        Of the compiler.

    Raises
    ------
    BackendError
        If there is no GPU.
    EngineError
        If ``FER_EDGE_PLUGIN`` names no file.
    """
    plugin = find_plugin()
    if plugin is not None:
        from fer_edge.engines.build.plugin_model import has_operator  # needs onnx

        plugin = plugin if has_operator(model.content) else None
    options = replace(options, plugin="none" if plugin is None else "required")
    key = make_key(model.sha256, options, version, identify_gpu(), plugin)
    cache = EngineCache(also=[model.path.parent / ENGINES], accepts=model.vouches_for)
    return EngineRequest(model, options, plugin, key, cache)


def _wait_logger() -> OnWait:
    """Return a callback that logs that, and for whom, a process waits: at once, then every minute."""
    next_s = 0

    def log(what: str, waited_s: int, limit_s: int) -> None:
        nonlocal next_s
        if waited_s >= next_s:
            next_s = waited_s + _LOG_INTERVAL_S
            _LOG.warning("waiting, %d s so far and %d at most: %s", waited_s, limit_s, what)

    return log
