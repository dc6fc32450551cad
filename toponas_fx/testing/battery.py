"""Everything that a pass promises, asked one question after another: what ``python -m toponas_fx.testing`` runs."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from toponas_fx.api import simplify
from toponas_fx.checking.precision import describe
from toponas_fx.errors import ToponasError
from toponas_fx.passes import DEFAULT_PASSES
from toponas_fx.rewriting.pass_base import Pass, Repeat, Semantics, broken_contract
from toponas_fx.runtime.inspection import inspection
from toponas_fx.testing.models import DETECTION, Passes, assert_exact, assert_one_hot, quietly
from toponas_fx.testing.rewrites import check_pass
from toponas_fx.testing.supernets import RandomSupernet, import_hypothesis, random_supernets


@dataclass(frozen=True)
class Finding:
    """What came of one question.

    Attributes:
        question: what was asked.
        passed: whether it holds; None where it could not be asked.
        text: what was seen, or why it does not hold.
    """

    question: str
    passed: bool | None
    text: str


def battery(pass_: Any, examples: int = 25, seed: int = 0) -> Iterator[Finding]:
    """Ask all that a pass promises; see ``python -m toponas_fx.testing --help``.

    Args:
        pass_: the pass.
        examples: how many random supernets to draw.
        seed: of these draws.

    Yields:
        What came of each question, as it is known. Nothing follows a broken contract.
    """
    contract = _asked("contract", lambda: _contract(pass_))
    yield contract
    if not contract.passed:
        return
    subject = _example(pass_)
    yield (
        Finding("example", None, "its module has no function example()")
        if subject is None
        else _asked("example", lambda: check_example(pass_, *subject))
    )
    found: list[RandomSupernet] = []
    on_supernets = _asked("supernets", lambda: _on_supernets(pass_, examples, seed, found))
    yield on_supernets
    if found or subject is not None:
        model, x = (found[0], found[0].example_input()) if found else subject
        yield _asked("copies", lambda: _copies(pass_, model, x))
    elif on_supernets.passed:
        yield Finding("work", None, f"it found nothing to do in {examples} supernets: write an example() in its module")


def check_example(pass_: Pass, module: Any, inputs: Any) -> str:
    """Check a pass on a module, after as few other passes as it takes to give it something to do.

    Returns:
        What was seen.

    Raises:
        AssertionError: it breaks a promise there, or finds nothing to do.
    """
    earlier = tuple(itertools.takewhile(lambda entry: _runs_before(entry, pass_), DEFAULT_PASSES))
    for prerequisites in ((), DETECTION, earlier):
        if _finds_work(pass_, module, inputs, prerequisites):
            count = len(check_pass(pass_, module, inputs, prerequisites=prerequisites).record.changes)
            return f"{count} change{'s' if count > 1 else ''}, as promised"
    raise AssertionError(f"{pass_.name} finds nothing to do in its own example()")


# -- questions -----------------------------------------------------------------------------------------------------


def _asked(question: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(question, True, ask())
    except AssertionError as error:
        return Finding(question, False, str(error))
    except ToponasError as error:
        return Finding(question, False, f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever the user's pass raises
        return Finding(question, False, describe(error))


def _contract(pass_: Any) -> str:
    broken = broken_contract(pass_)
    if broken is not None:
        raise AssertionError(broken)
    kind = type(pass_)
    kebab = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind.__name__).lower()
    options = vars(kind).get("__dataclass_params__")  # not those of a class above it
    if options is None or not options.frozen:
        raise AssertionError(f"{kind.__name__} is no frozen dataclass: write @dataclass(frozen=True) above it")
    if pass_.name != kebab:
        raise AssertionError(f"its name is {pass_.name!r}: a pass is named after its class, {kebab!r}")
    if set(vars(pass_)) != {field.name for field in dataclasses.fields(kind)}:
        raise AssertionError("it holds more than its fields: options are fields, and there is no other state")
    if copy.deepcopy(pass_) != pass_ or _pickled(pass_) != pass_:
        raise AssertionError("a copy is not equal to it: its fields must be values that compare and pickle")
    return f"{pass_.name}, {pass_.semantics.name}, stage {pass_.stage.name}"


def _on_supernets(pass_: Pass, examples: int, seed: int, found: list[RandomSupernet]) -> str:
    """Run the pass in the whole pipeline on random supernets, in both modes; keep those that it changes."""
    hypothesis = import_hypothesis()
    quiet = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],  # they are small to begin with; to shrink one takes minutes
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )

    def ask(model: RandomSupernet) -> None:
        x = model.example_input()
        try:
            if pass_.semantics is not Semantics.SHARES:
                assert_exact(model, x, passes=[*DEFAULT_PASSES, pass_])
            assert_one_hot(model, x, passes=[*DEFAULT_PASSES, pass_])
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else describe(error)
            raise AssertionError(f"on {model!r}:\n{said}") from error
        if _changes(pass_, model, x):
            found.append(model)

    hypothesis.seed(seed)(quiet(hypothesis.given(random_supernets(edges=2, candidates=4, cells=1))(ask)))()
    return f"{examples} in the whole pipeline, it changed {len(found)}"


def _copies(pass_: Pass, model: Any, x: Any) -> str:
    with quietly():
        fast = simplify(model, x, passes=[*DEFAULT_PASSES, pass_], strict=True).eval()
        expected = _tensors(fast, x)
        twins = {"deepcopy": copy.deepcopy(fast)} | ({"pickle": _pickled(fast)} if _pickles(model) else {})
        for how, twin in twins.items():
            alike = zip(_tensors(twin, x), expected, strict=True)
            if not all(torch.equal(one, other) for one, other in alike):
                raise AssertionError(f"what {how} makes of the simplified model computes something else")
    return f"{' and '.join(twins)} of the simplified model compute the same"


# -- what they need ------------------------------------------------------------------------------------------------


def _example(pass_: Pass) -> Any:
    """Return a module and its input where the pass's Python module has a function ``example``."""
    make = getattr(importlib.import_module(type(pass_).__module__), "example", None)
    return make() if callable(make) else None


def _runs_before(entry: Pass | Repeat, pass_: Pass) -> bool:
    """Return whether a default pass comes before another, which may be one of these itself."""
    own = entry.passes if isinstance(entry, Repeat) else (entry,)
    return entry.stage <= pass_.stage and type(pass_) not in map(type, own)


def _finds_work(pass_: Pass, module: Any, inputs: Any, prerequisites: Passes) -> bool:
    with quietly():
        fast = simplify(module, inputs, passes=prerequisites, strict=True).train()
        fast._toponas.sharing.is_decided = False
        return bool(fast._toponas.programs and pass_.plan(fast).matches)


def _changes(pass_: Pass, model: RandomSupernet, x: Tensor) -> bool:
    with quietly():
        report = inspection(simplify(model, x, passes=[*DEFAULT_PASSES, pass_], strict=True)).report
    return any(record.name == pass_.name and record.changes for record in report.records)


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def _pickles(model: Any) -> bool:
    """Return whether a model can be pickled before it is simplified: one whose class is made in a function cannot."""
    try:
        return bool(pickle.dumps(model))
    except Exception:
        return False


def _tensors(model: Any, x: Any) -> list[Tensor]:
    torch.manual_seed(0)
    leaves = pytree.tree_leaves(model(*x) if isinstance(x, tuple) else model(x))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
