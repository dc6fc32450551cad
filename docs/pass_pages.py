"""Write a page for each pass, from its docstring, its options and its `example()`; Sphinx does so when it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from toponas_fx import passes
from toponas_fx.rewriting.pass_base import Pass, Repeat


def write_pages(folder: Path) -> None:
    """Write a file a pass to a folder, and an index of them in the order in which they run."""
    folder.mkdir(exist_ok=True)
    places = list(_placed())
    for class_, place in places:
        _write(folder / f"{class_.name}.rst", page(class_, place))
    _write(folder / "index.rst", index([class_ for class_, _ in places]))


def index(classes: Sequence[type[Pass]]) -> str:
    """Return the page that leads to those of the passes."""
    names = "\n".join(f"   {class_.name}" for class_ in classes)
    return f"""The passes
==========

They run in this order, which is that of their :class:`stages <toponas_fx.rewriting.pass_base.Stage>`; ``Repeat`` means
in turn until none finds anything more. :doc:`/writing_a_pass` takes one of your own from nothing to tested.

.. literalinclude:: ../../passes/__init__.py
   :start-at: DEFAULT_PASSES: tuple

*Exact* and *rounding* passes keep the function for all weights and inputs; those that *share* keep it at every one-hot
architecture, with the shared modules tied. The graphs on these pages are what ``TOPONAS_DEBUG=2`` logs, a line
a value: its number, the operation, the module in brackets, what it reads.

.. toctree::
   :maxdepth: 1

{names}

The cost model
--------------

.. automodule:: toponas_fx.analysis.merge_cost
   :members:

.. automodule:: toponas_fx.analysis.stages
   :members: cheaper_placement
"""


def page(class_: type[Pass], place: str) -> str:
    """Return the page of a pass as reStructuredText."""
    module = class_.__module__
    return f"""{class_.name}
{"=" * len(class_.name)}

*Promise*: {class_.semantics.name.lower()}, {class_.semantics.value}. *Stage*: {class_.stage.name.lower()}. *Place*:
{place}.

.. automodule:: {module}

The module of the example
-------------------------

A test runs the pass on it, and compares with what is shown above.

.. literalinclude:: ../../passes/{module.rpartition(".")[2]}.py
   :pyobject: example

Options
-------

.. autoclass:: {module}.{class_.__name__}
"""


def _placed() -> Iterator[tuple[type[Pass], str]]:
    """Yield each pass with words for its place: first the default ones in their order, then the others."""
    found = list(_default_order())
    yield from ((class_, f"{index} of {len(found)} in ``DEFAULT_PASSES``{again}") for index, (class_, again) in found)
    default = {class_ for _, (class_, _) in found}
    for value in vars(passes).values():
        if isinstance(value, type) and issubclass(value, Pass) and value not in default | {Pass}:
            yield value, "only where an option asks for it"


def _default_order() -> Iterator[tuple[int, tuple[type[Pass], str]]]:
    entries = [
        (type(one), ", in turn with others until none finds anything more" if isinstance(entry, Repeat) else "")
        for entry in passes.DEFAULT_PASSES
        for one in (entry.passes if isinstance(entry, Repeat) else (entry,))
    ]
    yield from enumerate(entries, 1)


def _write(path: Path, text: str) -> None:
    """Write a file unless it has that text already, so that Sphinx need not read it again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
