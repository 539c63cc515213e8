"""Which of a file's entries are the weights of a network: wrappers, prefixes and counters of the training.

No list of prefixes is needed: a layout knows its entries, so whatever stands before all of them is taken off.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fer_edge._utils.inert_pickle import Made
from fer_edge._utils.text import printable
from fer_edge.errors import WeightsError

T = TypeVar("T")
Recognise = Callable[[Collection[str]], "str | None"]

#: Where scripts put the weights, most usual first; other names are looked into as well.
_WRAPPERS = ("net", "state_dict", "model_state_dict", "model", "weights", "network", "module", "params")
_DEEPEST = 4
_MAX_PREFIX_CHARS = 6
#: Averages of the weights over the training's steps, by the words of their names.
_AVERAGE = re.compile(r"(^|[^a-z])(ema|swa|averaged?|shadow|teacher)([^a-z]|$)")
_OTHER_STATE = re.compile(r"optim|sched|scaler|callback|loops|rng|hyper_parameters|config|args")
#: What training tools wrap modules in: anywhere in a name, and no part of it.
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
#: Entries of other tools: thop's counters, torch's average counter, and state that is no tensor.
_TOOLS = ("total_ops", "total_params", "n_averaged", "_extra_state")


@dataclass(frozen=True)
class ChosenEntries:
    """The chosen entries.

    Attributes
    ----------
    entries : mapping
        Name, without prefix → value.
    where : tuple of str
        The keys that lead to them.
    records : mapping
        What lies beside them at the top of the file.
    others : tuple of str
        Other weights in the file, which were not chosen.
    prefixes : tuple of str
        Prefixes that were removed from the names.
    dropped : mapping
        Kind of entry that was left out → how many.
    """

    entries: Mapping[str, Any]
    where: tuple[str, ...]
    records: Mapping[str, Any]
    others: tuple[str, ...]
    prefixes: tuple[str, ...]
    dropped: Mapping[str, int]


def choose_entries(
    content: object, is_tensor: Callable[[object], bool], recognise: Recognise, origin: str
) -> ChosenEntries:
    """Choose the weights in ``content``.

    Plain weights are taken before averages of them (EMA), those of a known layout before others.

    Raises
    ------
    WeightsError
        If there is nothing of the kind, or two entries get one name.
    """
    top = _mapping(content)
    if not top:
        raise WeightsError(
            f"{origin} holds a {_kind(content)} of no use, expected a dict with 'net', 'state_dict' or the entries: give a checkpoint"
        )
    places = list(_places(top, is_tensor))
    if not places:
        key = next((key for key in _WRAPPERS if key in top), None)
        if key is not None and _mapping(top[key]) is None:
            raise WeightsError(
                f"{origin}: {key!r} is a {_kind(top[key])}, expected a dict of tensors: save the weights alone, torch.save(model.state_dict(), 'weights.pt')"
            )
        places = [((), top)] if key is None else [((key,), _mapping(top[key]) or {})]
    judged = [(where, entries, _strip(entries, is_tensor, recognise, origin)) for where, entries in places]
    known = [one for one in judged if one[2].layout is not None]
    if known:
        where, entries, chosen = min(known, key=lambda one: _rank(one[0], one[2]))
    else:
        where, entries, chosen = max(judged, key=lambda one: sum(map(is_tensor, one[1].values())))
    others = tuple(_shown(other) for other, _, _ in known if other != where)
    records = {} if not where else {name: value for name, value in top.items() if name != where[0]}
    if not where:
        records = {
            name: value for name, value in entries.items() if isinstance(name, str) and name in chosen.beside
        }
    return ChosenEntries(chosen.entries, where, records, others, chosen.prefixes, chosen.dropped)


@dataclass(frozen=True)
class _Stripped:
    entries: Mapping[str, Any]
    layout: str | None
    prefix: str
    beside: frozenset[str]
    prefixes: tuple[str, ...]
    dropped: Mapping[str, int]


def _places(
    top: Mapping[Any, Any], is_tensor: Callable[[object], bool]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys that lead to each dict with tensors, and that dict."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), top)]
    for _ in range(_DEEPEST):
        below = []
        for where, mapping in level[:64]:
            if any(isinstance(name, str) and is_tensor(value) for name, value in mapping.items()):
                yield (
                    where,
                    mapping,
                )  # perhaps with records, such as a best accuracy: the weights may lie deeper
            for key, value in mapping.items():
                inner = _mapping(value)
                if isinstance(key, str) and inner and not _OTHER_STATE.search(key.lower()):
                    below.append(((*where, key), inner))
        level = below


def _rank(where: tuple[str, ...], stripped: _Stripped) -> tuple[bool, int, int]:
    """Order: plain before averages, then how usual the name of the wrapper is, then the larger."""
    averaged = any(_AVERAGE.search(key.lower()) for key in (*where, stripped.prefix))
    usual = min((_WRAPPERS.index(key) for key in where if key in _WRAPPERS), default=len(_WRAPPERS))
    return averaged, 0 if not where else 1 + usual, -len(stripped.entries)


def _strip(
    entries: Mapping[Any, Any], is_tensor: Callable[[object], bool], recognise: Recognise, origin: str
) -> _Stripped:
    """Take off what training put around the names of one dict of tensors."""
    dropped: Counter[str] = Counter()
    kept: dict[Any, Any] = {}
    for name, value in entries.items():
        last = name.rsplit(".", 1)[-1] if isinstance(name, str) else ""
        if last in _TOOLS:
            dropped[last] += 1
        else:
            kept[name] = value
    if not all(isinstance(name, str) for name in kept):
        return _Stripped(kept, None, "", frozenset(), (), dropped)
    plain = _renamed(kept, lambda name: _WRAPPED.sub("", name), origin)
    layout, prefix, beside = recognise(plain), "", frozenset[str]()
    if layout is None:
        prefix, layout = _best_prefix(plain, recognise)
    if layout is not None:
        beside = frozenset(
            name
            for name, value in plain.items()
            if "." not in name and "/" not in name and not is_tensor(value)
        )
    if prefix:
        outside = [name for name in plain if not name.startswith(prefix) and name not in beside]
        dropped.update(f"{name.split('.')[0]}.…" for name in outside)
        plain = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
    plain = {name: value for name, value in plain.items() if name not in beside}
    wrapped = sorted({found for name in kept for found in _WRAPPED.findall(name)})
    prefixes = tuple(printable(taken) for taken in (*wrapped, prefix) if taken)
    return _Stripped(plain, layout, prefix, beside, prefixes, dropped)


def _best_prefix(names: Collection[str], recognise: Recognise) -> tuple[str, str | None]:
    """Return the shortest prefix behind which a layout lies, plain before average; at least a quarter has it."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[: _MAX_PREFIX_CHARS + 1]
        counts.update(".".join(parts[:count]) + "." for count in range(1, len(parts)))
    large = [prefix for prefix, count in counts.items() if count * 4 >= len(names)]
    for prefix in sorted(
        large, key=lambda prefix: (bool(_AVERAGE.search(prefix.lower())), prefix.count("."), prefix)
    ):
        behind = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if (layout := recognise(behind)) is not None:
            return prefix, layout
    return "", None


def _renamed(entries: Mapping[str, T], rename: Callable[[str], str], origin: str) -> dict[str, T]:
    found: dict[str, T] = {}
    for name, value in entries.items():
        short = rename(name)
        if short in found:
            raise WeightsError(
                f"{origin} has {printable(name)} and another entry that both stand for {printable(short)}: save the weights of one model, torch.save(model.state_dict(), 'weights.pt')"
            )
        found[short] = value
    return found


def _mapping(value: object) -> Mapping[Any, Any] | None:
    if isinstance(value, Made):
        return value.items or None
    return value if isinstance(value, Mapping) else None


def _kind(value: object) -> str:
    if isinstance(value, Made):
        return "Tensor" if value.of.startswith("torch._utils._rebuild_") else printable(value.of)
    return type(value).__name__


def _shown(where: tuple[str, ...]) -> str:
    return " / ".join(repr(printable(key)) for key in where)
