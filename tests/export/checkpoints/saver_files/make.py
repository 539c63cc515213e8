"""Write the checkpoints beside this file with TensorFlow 2 in version 1 mode: python make.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

SHAPES = [(), (3,), (2, 3), (3, 3, 1, 2), (0, 4), (5, 1)]
DTYPES = [np.float32, np.float32, np.float64, np.int32]
tf1 = tf.compat.v1


def value(i: int) -> np.ndarray:
    """Return the value of variable ``i``."""
    shape = SHAPES[i % len(SHAPES)]
    size = int(np.prod(shape, dtype=int))
    return (np.arange(size).reshape(shape) + 100 * i).astype(DTYPES[i % len(DTYPES)])


def write(name: str, variables: int, shards: int = 1, graph: bool = False) -> None:
    """Save ``variables`` variables; with ``graph`` also constants and the graph."""
    with tf.Graph().as_default():
        if graph:
            tf.constant([[1.0, 2.0]])
            tf.constant("text")
            tf.constant(np.arange(136, dtype=np.float32)[None] / 4, name="Const_2")
        for i in range(variables):
            with tf1.device(f"/cpu:{i % shards}"):
                tf1.Variable(value(i), name=f"Stage{1 + i % 2}/layer_{i}/kernel")
        saver = tf1.train.Saver(sharded=shards > 1)
        with tf1.Session(config=tf1.ConfigProto(device_count={"CPU": shards})) as session:
            session.run(tf1.global_variables_initializer())
            saver.save(session, str(Path(__file__).parent / name), write_meta_graph=graph, write_state=False)


if __name__ == "__main__":
    tf1.disable_eager_execution()
    write("single", 48)
    write("sharded", 48, shards=2)
    write("graph", 2, graph=True)
