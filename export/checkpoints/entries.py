"""Find the weights of a network in a file: strip wrappers, prefixes and training counters.

No list of prefixes is needed: a layout knows its entry names, so any common prefix before them is removed.
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

#: Keys under which scripts store the weights, most usual first; other keys are searched as well.
_WRAPPERS = ("net", "state_dict", "model_state_dict", "model", "weights", "network", "module", "params")
_DEEPEST = 4
_MAX_PREFIX_CHARS = 6
#: Averages of the weights over the training's steps, by the words of their names.
_AVERAGE = re.compile(r"(^|[^a-z])(ema|swa|averaged?|shadow|teacher)([^a-z]|$)")
_OTHER_STATE = re.compile(r"optim|sched|scaler|callback|loops|rng|hyper_parameters|config|args")
#: Names of wrapper modules of training tools, removed anywhere in an entry name.
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
#: Entries of other tools: thop's counters, torch's average counter, and non-tensor state.
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
        Other values at the top level of the file.
    others : tuple of str
        Other weights in the file that were not chosen.
    prefixes : tuple of str
        Prefixes that were removed from the names.
    dropped : mapping
        Kind of entry that was left out → number.
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
        If there are no weights, or two entries get one name.
    """
    top = _mapping(content)
    if not top:
        raise WeightsError(
            f"expected a dict with 'net', 'state_dict' or the entries in {origin}, found a {_kind(content)}. Fix: give a checkpoint."
        )
    places = list(_places(top, is_tensor))
    if not places:
        key = next((key for key in _WRAPPERS if key in top), None)
        if key is not None and _mapping(top[key]) is None:
            raise WeightsError(
                f"{key!r} in {origin} is a {_kind(top[key])}, expected a dict of tensors. Fix: save the weights alone with torch.save(model.state_dict(), 'weights.pt')"
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
                )  # may hold only records, such as a best accuracy, with the weights deeper
            for key, value in mapping.items():
                inner = _mapping(value)
                if isinstance(key, str) and inner and not _OTHER_STATE.search(key.lower()):
                    below.append(((*where, key), inner))
        level = below


def _rank(where: tuple[str, ...], stripped: _Stripped) -> tuple[bool, int, int]:
    """Sort key: plain before averaged weights, then the more usual wrapper, then the larger dict."""
    averaged = any(_AVERAGE.search(key.lower()) for key in (*where, stripped.prefix))
    usual = min((_WRAPPERS.index(key) for key in where if key in _WRAPPERS), default=len(_WRAPPERS))
    return averaged, 0 if not where else 1 + usual, -len(stripped.entries)


def _strip(
    entries: Mapping[Any, Any], is_tensor: Callable[[object], bool], recognise: Recognise, origin: str
) -> _Stripped:
    """Remove wrappers and prefixes of training tools from the names of one dict of tensors."""
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
    """Return the shortest prefix of at least a quarter of the names whose rest is a layout, plain before average."""
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
                f"{origin} has {printable(name)} and another entry for the same {printable(short)}. Fix: save the weights of one model with torch.save(model.state_dict(), 'weights.pt')"
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
