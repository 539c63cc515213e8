"""Pictures with known numbers of pasted faces, and many threads that ask about them at the same time.

Every thread has pictures of its own, so that an answer that belongs to another thread is a wrong one.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import cv2
import numpy as np

from fer_edge.results import Detection, FrameResult

_COLUMNS, _ROWS, _CELL_PX = 3, 2, 214
MAX_FACES = _COLUMNS * _ROWS - 1


def draw_crowds(astronaut: np.ndarray, count: int) -> list[np.ndarray]:
    """Return ``count`` different pictures ``[428, 642, 3]`` of 0 to 5 faces, different in size, place, side and light."""
    return [_draw_crowd(astronaut, number % (MAX_FACES + 1), number) for number in range(count)]


def _draw_crowd(astronaut: np.ndarray, faces: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.full((_ROWS * _CELL_PX, _COLUMNS * _CELL_PX, 3), rng.integers(60, 180, 3), np.uint8)
    for cell in rng.permutation(_COLUMNS * _ROWS)[:faces]:
        side = int(rng.integers(120, _CELL_PX))
        face = cv2.resize(astronaut[20:220, 120:320], (side, side), interpolation=cv2.INTER_AREA)
        face = cv2.convertScaleAbs(face, alpha=rng.uniform(0.7, 1.1), beta=rng.uniform(0, 20))
        left, top = (int(v) for v in rng.integers(0, _CELL_PX - side, 2))
        left, top = left + cell % _COLUMNS * _CELL_PX, top + cell // _COLUMNS * _CELL_PX
        picture[top : top + side, left : left + side] = face[:, ::-1] if rng.random() < 0.5 else face
    return picture


def of_detections(found: Sequence[Detection]) -> Hashable:
    """Return every bit of what a detector found."""
    return tuple(
        (face.box_xyxy, face.score, None if face.landmarks is None else face.landmarks.tobytes())
        for face in found
    )


def of_frame(result: FrameResult) -> Hashable:
    """Return every bit of a runtime's answer except times and number."""
    return tuple(
        (
            face.box_xyxy,
            face.detection_score,
            None if face.landmarks is None else face.landmarks.tobytes(),
            face.label,
            face.reason,
            face.probability,
            tuple(face.probabilities.items()),
        )
        for face in result.faces
    )


def of_outputs(outputs: Any) -> Hashable:
    """Return every bit of a session's outputs."""
    return tuple((name, values.shape, values.tobytes()) for name, values in outputs.items())


def run_together(*work: Callable[[], None], timeout_s: float = 300) -> None:
    """Call everything at the same time, each in a thread; raise the first error."""
    gate, errors = threading.Barrier(len(work)), list[BaseException]()

    def begin(call: Callable[[], None]) -> None:
        try:
            gate.wait(timeout_s)
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(call,), daemon=True) for call in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def count_wrong(
    ask: Callable[[Any], Hashable],
    questions: Sequence[Any],
    expected: Sequence[Hashable],
    threads: int,
    rounds: int,
    *others: Callable[[], None],
) -> tuple[int, int]:
    """Ask every question ``rounds`` times and return how many answers were wrong, of how many.

    Each of ``threads`` asks its own part of the questions in random order, while ``others`` run too. An error is a
    wrong answer.
    """
    answers: list[bool] = []

    def work(first: int) -> None:
        mine = list(range(first, len(questions), threads))
        shuffle = random.Random(first).shuffle
        for _ in range(rounds):
            shuffle(mine)
            for number in mine:
                try:
                    answers.append(ask(questions[number]) == expected[number])
                except Exception:
                    answers.append(False)

    run_together(*(lambda first=i: work(first) for i in range(threads)), *others)  # type: ignore[misc]
    return answers.count(False), len(answers)
