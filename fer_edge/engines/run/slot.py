"""Slot of one batch on a device: its buffers, its events, and one execution context per batch size.

Two slots alternate: while one computes, the input of the other is copied. Both compute on the same stream, so they
share the scratch memory of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.cuda.device import Device
from fer_edge.cuda.resources import allocate, allocate_pinned, create_event, create_stream
from fer_edge.engines.run.engine import Context, Engine, TensorInfo

_ALIGNMENT = 256
#: Stages of a batch, each with a start and an end event.
STAGES = ("copy_in", "compute", "copy_out")


class BatchWriter(Protocol):
    """Callback that writes samples of a batch on the device, such as crops of a frame."""

    def __call__(self, out: DeviceArray, first: int, stream: int) -> None:
        """Enqueue work on ``stream`` that fills ``out`` with the samples from index ``first``."""


Source = np.ndarray | DeviceArray | BatchWriter
Target = np.ndarray | DeviceArray


@dataclass(frozen=True)
class Part:
    """Samples ``first`` to ``first + rows`` of a batch, run at once."""

    source: Source
    targets: Mapping[str, Target]
    first: int
    rows: int


class Streams(NamedTuple):
    """One stream per stage."""

    copy_in: int
    compute: int
    copy_out: int

    @classmethod
    def create(cls, device: Device, resources: ExitStack) -> Streams:
        """Create the streams, freed by ``resources``."""
        return cls(*(create_stream(device, resources) for _ in STAGES))


@dataclass(frozen=True)
class _Prepared:
    """Execution context of one batch size, and the layout of its outputs in the buffer of the slot."""

    context: Context
    offsets: Mapping[str, int]
    views: Mapping[str, np.ndarray]  # of the pinned memory
    output_bytes: int


class Slot:
    """Buffers, events and contexts of one batch at a time. Everything is freed by ``resources``.

    Parameters
    ----------
    device, engine : Device, Engine
        Device and engine.
    batches : tuple of int
        Batch sizes, ascending.
    streams : Streams
        Shared by all slots.
    scratch : int
        Address of the scratch memory of the engine, shared by all slots.
    resources : ExitStack
        Frees all allocations.
    """

    def __init__(
        self,
        device: Device,
        engine: Engine,
        batches: tuple[int, ...],
        streams: Streams,
        scratch: int,
        resources: ExitStack,
    ) -> None:
        self._device, self._engine, self._streams = device, engine, streams
        self._graphs: dict[int, int] = {}
        largest = batches[-1]
        layouts = {batch: _layout(engine.outputs, batch) for batch in batches}
        input_bytes = largest * engine.input.row_bytes
        output_bytes = layouts[largest][1]
        self.device_bytes = self.pinned_bytes = input_bytes + output_bytes
        self._input = allocate(device, input_bytes, resources)
        self._output = allocate(device, output_bytes, resources)
        self._pinned_input = allocate_pinned(device, input_bytes, resources)
        self._pinned_output = allocate_pinned(device, output_bytes, resources)
        self._pinned_input_address = self._pinned_input.ctypes.data
        self._pinned_output_address = self._pinned_output.ctypes.data
        self._input_view = _view(self._pinned_input, 0, largest, engine.input)
        self._begin = {stage: create_event(device, resources) for stage in STAGES}
        self._end = {stage: create_event(device, resources) for stage in STAGES}
        self._producer = create_event(device, resources)
        self._prepared: dict[int, _Prepared] = {}
        for batch, (offsets, size) in layouts.items():
            addresses = {name: self._output + offset for name, offset in offsets.items()}
            context = engine.create_context(batch, {engine.input.name: self._input, **addresses}, scratch)
            resources.callback(context.close)
            views = {o.name: _view(self._pinned_output, offsets[o.name], batch, o) for o in engine.outputs}
            self._prepared[batch] = _Prepared(context, offsets, views, size)

    def capture(self, batch: int, resources: ExitStack) -> None:
        """Capture a graph for one batch size, which must have run once before."""
        context, stream = self._prepared[batch].context, self._streams.compute
        graph = self._device.capture(stream, lambda: context.enqueue(stream))
        resources.callback(self._device.destroy_graph, graph)
        self._graphs[batch] = graph

    def forget_graphs(self) -> None:
        """Stop using graphs."""
        self._graphs.clear()

    def start(self, part: Part, batch: int, to_host: bool) -> None:
        """Enqueue all work of a part, without waiting.

        Parameters
        ----------
        part : Part
            At most ``batch`` samples.
        batch : int
            One of the batch sizes of the slot.
        to_host : bool
            Whether the outputs are copied to pinned memory.
        """
        device, streams, prepared = self._device, self._streams, self._prepared[batch]
        self._fill_input(part)
        device.wait(streams.compute, self._end["copy_in"])
        device.record(self._begin["compute"], streams.compute)
        graph = self._graphs.get(batch)
        if graph is None:
            prepared.context.enqueue(streams.compute)
        else:
            device.launch(graph, streams.compute)
        device.record(self._end["compute"], streams.compute)
        device.wait(streams.copy_out, self._end["compute"])
        device.record(self._begin["copy_out"], streams.copy_out)
        if to_host:
            device.copy(self._pinned_output_address, self._output, prepared.output_bytes, streams.copy_out)
        for output in self._engine.outputs:
            target = part.targets.get(output.name)
            if isinstance(target, DeviceArray):
                self._wait_for_producer(target, streams.copy_out)
                address = target.address + part.first * output.row_bytes
                source = self._output + prepared.offsets[output.name]
                device.copy(address, source, part.rows * output.row_bytes, streams.copy_out)
        device.record(self._end["copy_out"], streams.copy_out)

    def is_done(self) -> bool:
        """Return whether the last part is complete."""
        return self._device.is_done(self._end["copy_out"])

    def output(self, name: str, batch: int, rows: int) -> np.ndarray:
        """Return an output of the last part, valid until the slot starts another."""
        return self._prepared[batch].views[name][:rows]

    def measure(self, into_ms: np.ndarray) -> None:
        """Write the times of the last part, ``[3]`` milliseconds by :data:`STAGES`."""
        for i, stage in enumerate(STAGES):
            into_ms[i] = self._device.elapsed_ms(self._begin[stage], self._end[stage])

    def _fill_input(self, part: Part) -> None:
        device, stream, row_bytes = self._device, self._streams.copy_in, self._engine.input.row_bytes
        source, first, rows = part.source, part.first, part.rows
        if isinstance(source, np.ndarray):
            np.copyto(self._input_view[:rows], source[first : first + rows], casting="same_kind")
            device.record(self._begin["copy_in"], stream)
            device.copy(self._input, self._pinned_input_address, rows * row_bytes, stream)
        elif isinstance(source, DeviceArray):
            self._wait_for_producer(source, stream)
            device.record(self._begin["copy_in"], stream)
            device.copy(self._input, source.address + first * row_bytes, rows * row_bytes, stream)
        else:
            device.record(self._begin["copy_in"], stream)
            shape = (rows, *self._engine.input.row_shape)
            source(DeviceArray(self._input, shape, self._engine.input.dtype), first, stream)
        device.record(self._end["copy_in"], stream)

    def _wait_for_producer(self, array: DeviceArray, stream: int) -> None:
        if array.producer is not None and array.producer != stream:
            self._device.record(self._producer, array.producer)
            self._device.wait(stream, self._producer)


def _layout(outputs: tuple[TensorInfo, ...], batch: int) -> tuple[dict[str, int], int]:
    """Return the aligned offsets of the outputs and their total size in bytes."""
    offsets, size = {}, 0
    for output in outputs:
        offsets[output.name] = size
        size += -(-batch * output.row_bytes // _ALIGNMENT) * _ALIGNMENT
    return offsets, size


def _view(memory: np.ndarray, offset: int, batch: int, tensor: TensorInfo) -> np.ndarray:
    flat = memory[offset : offset + batch * tensor.row_bytes]
    return flat.view(tensor.dtype).reshape(batch, *tensor.row_shape)
