"""Find the engine of a model for this device, in the bundle or the cache, or build it."""

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

# Warnings, because they are shown without any logging set-up: they explain waits of minutes.
_LOG = logging.getLogger(__name__)
_LOG_INTERVAL_S = 60


@dataclass(frozen=True)
class EngineRequest:
    """A model, its build options, and the cache of its engine for this device.

    Attributes
    ----------
    model : ModelFile
        The ONNX file.
    options : EngineOptions
        Build options, with ``plugin`` resolved to ``none`` or ``required``.
    plugin : Path or None
        The plugin library, if the engine needs it.
    key : EngineKey
        Key of the engine.
    cache : EngineCache
        Cache where it is built; engines in the bundle of the model come first.
    """

    model: ModelFile
    options: EngineOptions
    plugin: Path | None
    key: EngineKey
    cache: EngineCache

    def find(self) -> CachedEngine | None:
        """Return an engine that exists already, else ``None``."""
        return self._find_ahead_of_time() or self.cache.find(self.key)

    def find_or_build(self) -> CachedEngine:
        """Return an engine; build it if there is none, with warnings that explain the wait.

        Raises
        ------
        EngineError
            If the build fails, or as :meth:`fer_edge.engines.cache.store.EngineCache.get_or_build`.
        """
        engine = self._find_ahead_of_time() or self.cache.get_or_build(self.key, self._build, _wait_logger())
        if engine.rebuilt_because is not None:
            _LOG.warning("the engine of %s was rebuilt: %s", self.model.path.name, engine.rebuilt_because)
        return engine

    def _find_ahead_of_time(self) -> CachedEngine | None:
        """Return an engine of the bundle that was compiled ahead of time, with or without the plugin.

        It has the default batch sizes, which include smaller ones.
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
            "compiling %s for this device with %s, which may take minutes and is done once",
            name,
            self.options.flavour,
        )
        with tempfile.TemporaryDirectory() as folder:  # compile exactly the bytes that were hashed
            copy = Path(folder) / name
            copy.write_bytes(self.model.content)
            report = build_engine(copy, path, self.options)
        if self.options.dla_core is not None:
            _LOG.warning("TensorRT assigns %d of %d layers to the DLA", report.dla_layers, report.layers)


def request_engine(model: ModelFile, options: EngineOptions, version: str) -> EngineRequest:
    """Return the request for an engine of ``model`` on this device.

    The plugin is used if its library is installed and the model has its operator.

    Parameters
    ----------
    model : ModelFile
        The ONNX file.
    options : EngineOptions
        Build options; ``plugin`` is ignored.
    version : str
        Version of the compiler.

    Raises
    ------
    BackendError
        If there is no GPU.
    EngineError
        If ``FER_EDGE_PLUGIN`` names a file that does not exist.
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
    """Return a callback that logs the wait for another process, at once and then every minute."""
    next_s = 0

    def log(what: str, waited_s: int, limit_s: int) -> None:
        nonlocal next_s
        if waited_s >= next_s:
            next_s = waited_s + _LOG_INTERVAL_S
            _LOG.warning("waiting %d s so far, %d s at most: %s", waited_s, limit_s, what)

    return log
