"""What code reaches outside the model by the names in it, and whether a graph may hold what it found there.

A name leads to a value, and the attributes that follow it to others: ``time.time``, ``RNG.integers``, ``CFG.get``. Some
of these give another answer at each call (a clock, a generator of random numbers, an iterator): a run that uses one is
not repeated by a graph. Others are looked up again at each call.
"""

from __future__ import annotations

import datetime
import dis
import functools
import gc
import itertools
import os
import random
import secrets
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch

from toponas_fx.capture.advice import DRAW, REPEAT
from toponas_fx.module_tree.code_names import names_of
from toponas_fx.module_tree.snapshots import MISSING
from toponas_fx.module_tree.tensor_paths import is_library

_ANOTHER_EACH_TIME = {
    time: "time time_ns perf_counter perf_counter_ns monotonic monotonic_ns process_time process_time_ns thread_time "
    "thread_time_ns localtime gmtime ctime strftime",
    datetime.datetime: "now utcnow today",
    datetime.date: "today",
    os: "urandom getrandom listdir scandir stat",
    secrets: "choice randbelow randbits token_bytes token_hex token_urlsafe SystemRandom",
    uuid: "uuid1 uuid4",
    random: "Random SystemRandom",
    torch: "initial_seed seed",
}
"""Where to find what answers otherwise at each call, and the names there."""
_OF_NUMPY = "default_rng RandomState Generator SeedSequence"
_BUILTINS = (open, input)
_SWITCHES = frozenset(
    "are_deterministic_algorithms_enabled is_deterministic_algorithms_warn_only_enabled get_num_threads "
    "get_float32_matmul_precision is_anomaly_enabled get_default_dtype get_default_device".split()
)
"""Names of torch's functions that tell how it is set."""
_IDENTITY = frozenset(("id", "is_", "is_not"))
"""Names of what asks which object a value is."""


class Reading:
    """A value that is looked up by a call, in the shape of an attribute that guards can compare: ``value``."""

    def __init__(self, read: Callable[[], Any]) -> None:
        """Keep how to look it up."""
        self._read = read

    @property
    def value(self) -> Any:
        """The present value."""
        return self._read()


@functools.cache
def _answers_otherwise() -> frozenset[Any]:
    named = [(owner, name) for owner, names in _ANOTHER_EACH_TIME.items() for name in names.split()]
    found = {getattr(owner, name) for owner, name in named if hasattr(owner, name)}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        found |= {getattr(numpy.random, name) for name in _OF_NUMPY.split()}
    return frozenset(found) | frozenset(_BUILTINS)


@functools.cache
def _instructions(code: CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(dis.get_instructions(code))


@functools.cache
def chains(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """Return the globals that code names, each with the attributes that are taken of it at once."""
    found: dict[tuple[str, ...], None] = {}
    chain: tuple[str, ...] = ()
    for instruction in _instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain = (*chain, str(instruction.argval))
            continue
        if chain:
            found[chain] = None
        is_name = instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        chain = (str(instruction.argval),) if is_name else ()
    inner = (chain for part in code.co_consts if isinstance(part, CodeType) for chain in chains(part))
    return tuple(dict.fromkeys((*found, *inner)))


@functools.cache
def asks_identity(code: CodeType) -> bool:
    """Return whether code asks if two values are one object: ``k is 1``, not ``k is None``."""
    if not _IDENTITY.isdisjoint(names_of(code)):
        return True
    found = _instructions(code)
    for before, instruction in itertools.pairwise(found):
        if instruction.opname == "IS_OP" and not (before.opname.startswith("LOAD_") and _is_one(before.argval)):
            return True
    return any(asks_identity(part) for part in code.co_consts if isinstance(part, CodeType))


def _is_one(value: Any) -> bool:
    return value is None or value is True or value is False or value is ...


def reached(code: CodeType, outer: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what the code's chains of names lead to, step by step, through modules and classes of libraries."""
    builtins = outer.get("__builtins__", {})
    builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
    for chain in chains(code):
        value = outer.get(chain[0], builtins.get(chain[0], MISSING))
        yield chain[:1], value
        for length, name in enumerate(chain[1:], 2):
            if not isinstance(value, ModuleType | type):
                yield chain[:length], value
                break
            value = getattr(value, name, MISSING)
            yield chain[:length], value


def why_impure(value: Any, names: tuple[str, ...]) -> str | None:
    """Return why no graph repeats what code reaches by some names; None where nothing is known against it."""
    told = ".".join(names)
    if is_iterator(value):
        return f"forward takes from `{told}`, which gives something else each time; {REPEAT}"
    if isinstance(value, random.SystemRandom):
        return f"forward draws from `{told}`; {DRAW}"
    try:
        is_other = value in _answers_otherwise()
    except (TypeError, ValueError):  # cannot be hashed, so it is none of them; a memoryview says so by ValueError
        return None
    return f"forward calls `{told}`, which answers otherwise each time; {REPEAT}" if is_other else None


def is_iterator(value: Any) -> bool:
    """Return whether a value is an iterator of Python's: what it holds cannot be looked at. Files are written to."""
    kind = type(value)
    if not (hasattr(kind, "__next__") and hasattr(kind, "__iter__")) or not is_library(kind.__module__):
        return False
    return kind.__module__.split(".")[0] not in ("torch", "numpy", "unittest", "_io", "io")


def is_generator(value: Any) -> bool:
    """Return whether a value generates random numbers and shows its state."""
    if isinstance(value, random.Random):
        return not isinstance(value, random.SystemRandom)
    return type(value).__module__.startswith("numpy.random") and not isinstance(value, type)


def readings(value: Any, name: str | None) -> Iterator[Reading]:
    """Yield what to look up again of a value that is reached by names, the next of which is given."""
    if isinstance(value, ContextVar):
        yield Reading(lambda: value.get(MISSING))
    elif isinstance(value, threading.local) and name is not None:
        yield Reading(lambda: getattr(value, name, MISSING))
    elif isinstance(value, FunctionType | BuiltinFunctionType) and value.__name__ in _SWITCHES:
        yield Reading(value)


def held_by(value: Any) -> Iterator[Any]:
    """Yield the objects that a weak reference, or a function with a memory, leads to."""
    if isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, functools._lru_cache_wrapper):
        for part in gc.get_referents(value):  # its results, and tables
            yield from part.values() if type(part) is dict and part is not vars(value) else (part,)


def is_memory(value: Any) -> bool:
    """Return whether a value is one of those that ``held_by`` looks into."""
    return isinstance(value, weakref.ref | functools._lru_cache_wrapper)


def imported(code: CodeType) -> Iterator[tuple[ModuleType, str]]:
    """Yield the modules that code imports when it runs, each with the names in the code that it has."""
    for instruction in _instructions(code):
        module = sys.modules.get(instruction.argval) if instruction.opname == "IMPORT_NAME" else None
        if module is not None:
            yield from ((module, name) for name in names_of(code) if name in vars(module))


def is_environment(value: Any) -> bool:
    """Return whether a value is what reads environment variables."""
    return value is os.environ or value is os.getenv


def is_users_function(value: Any) -> bool:
    """Return whether a value is a function written in Python, by the user."""
    return isinstance(value, FunctionType) and not is_library(value.__module__ or "")
