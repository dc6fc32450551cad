"""The example of each pass, run against the docstring, so that documentation cannot rot."""

import importlib
import inspect
import re
import textwrap

import pytest

import toponas_fx
from toponas_fx import passes
from toponas_fx.passes import DetectMixedOps, MergeKernels, NormalizeKernels, ShareModules
from toponas_fx.rewriting.pass_base import Pass
from toponas_fx.testing.rewrites import text_of

PREREQUISITES = {
    "drop-zero-candidates": (DetectMixedOps(),),
    "share-modules": (DetectMixedOps(),),
    "normalize-kernels": (DetectMixedOps(), ShareModules()),
    "merge-kernels": (DetectMixedOps(),),
    "float-modules": (DetectMixedOps(),),
    "share-prefixes": (DetectMixedOps(),),
    "combine-terms": (DetectMixedOps(),),
    "drop-neutral": (DetectMixedOps(),),
    "gather-bare-weights": (DetectMixedOps(),),
    "fold-weights": (DetectMixedOps(),),
    "batch-kernels": (DetectMixedOps(), ShareModules(), NormalizeKernels(), MergeKernels()),
}
CLASSES = [value for value in vars(passes).values() if inspect.isclass(value) and issubclass(value, Pass)]
CLASSES.remove(Pass)


def block(docstring, title):
    """Return the literal block under a title."""
    found = re.search(rf"^{title}::\n\n((?:    .*\n)+)", docstring, re.MULTILINE)
    assert found, f"no block `{title}::`"
    return textwrap.dedent(found[1]).strip()


def shown(class_):
    """Return the module that holds a pass."""
    return importlib.import_module(class_.__module__)


@pytest.mark.parametrize("class_", CLASSES, ids=lambda class_: class_.name)
def test_the_example_is_what_the_docstring_shows(class_):
    module, inputs = shown(class_).example()
    prerequisites = PREREQUISITES.get(class_.name, ())
    before = toponas_fx.simplify(module, inputs, passes=prerequisites)
    after = toponas_fx.simplify(module, inputs, passes=(*prerequisites, class_()))
    assert text_of(before) == block(shown(class_).__doc__, "Before")
    assert text_of(after) == block(shown(class_).__doc__, "After")


@pytest.mark.parametrize("class_", CLASSES, ids=lambda class_: class_.name)
def test_the_docstring_numbers_what_it_refuses(class_):
    docstring = shown(class_).__doc__
    assert re.match(r"[A-Z][a-z]+ .*\.\n|[A-Z][a-z]+ .*[:.]", docstring), "one imperative sentence first"
    refused = docstring.split("Refuses:")[1]
    numbers = [int(number) for number in re.findall(r"^(\d)\. ", refused, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


def test_every_pass_file_has_its_test_file_and_example():
    for class_ in CLASSES:
        stem = class_.name.replace("-", "_")
        assert shown(class_).__name__ == f"toponas_fx.passes.{stem}"
        assert callable(shown(class_).example)
