"""Signals reach their handler after sessions were opened and closed in any order.

OpenVINO installs signal stacks on processors with AMX. On other processors these tests always pass.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from fer_edge.backends import available_backends

PROGRAM = """
import gc, signal, sys, threading
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.bundle import open_bundle
from fer_edge.models.catalogue import shipped_bundle

backend, order = sys.argv[1], [int(i) for i in sys.argv[2]]
model = open_bundle(shipped_bundle()).read_model("fp32", "cpu")

def use():
    sessions = [BACKENDS[backend].open(model, SessionOptions(threads=1)) for _ in order]
    for i in order:
        sessions[i].close()
        sessions[i] = None
        gc.collect()

use()
worker = threading.Thread(target=use)
worker.start()
worker.join()
received = []
signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
signal.raise_signal(signal.SIGINT)
print(received)
"""


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("012")][::2])
@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_a_signal_reaches_its_handler(backend: str, order: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend, order], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, (result.returncode, result.stderr)
    assert result.stdout == "[2]\n"
