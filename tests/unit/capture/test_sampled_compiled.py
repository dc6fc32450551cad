"""Which sampled supernets are compiled with all their paths: one that falls back to running as written is noticed."""

from __future__ import annotations

import warnings

import pytest

from sampled.collected import SAMPLED
from sampled.parts import Sampled
from sampled.side_by_side import built, image, seed, simplified
from toponas_fx.analysis.arms import selects

COMPILED = frozenset(
    "TinyNetworkGDAS TinyNetworkAnnealed TinyNetworkAtEvaluation NASNetworkGDAS IndexOfAList TensorCompared "
    "TensorIndexes ZerosSkipped PositiveTaken WhereNonzero ListedUpFront PickedUpFront RowsListed DictOfNames "
    "NameInText Branches Matched Member TwoChoicesInOne ReadTwice TensorReturned IndexComputedWith GumbelSoftmax "
    "GumbelSoftmaxRows MaxWithIndex MultinomialItem MultinomialRows CategoricalSample OneHotSample RandomIntegers "
    "PythonChoice StrongestCandidate OfTwo OfNine SETN DSNAS ReinforcedEarly SharedStates UnlikeChannels UnlikeLayouts "
    "BuffersWritten DropoutInside DrawnAfterwards PathsDropped Quantizations OneModuleInTwo OneModuleInAllEdges "
    "PoolsOfOneState MomentumOfNone LossBeside HardByComparison Embedded GatedByImages SpaceShrinks AliasChanged "
    "TwoDrawsOneBackward TwoOfFour".split()
)
"""Those that are so from ``simplify`` on."""
GIVEN = frozenset(("TupleOfChoices", "ListOfChoices", "KeywordChoice"))
"""Those that are so once they are given another path."""

KEPT = frozenset(
    "AttributeSet FixedForAWhile ProxylessTwo NNILayerChoices Edges DefaultOfClass FoundByComparison SkippedByMinusOne "
    "PathsByName StructureSet DictSet ListChanged EpochBeside DrawnBeside GatedInFull DepthKept NamesJoined "
    "ListEmptied OnceForAll".split()
)
"""Those that are so once the structures that they keep were others in two steps."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLED, ids=lambda kind: kind.__name__)
def test_all_paths_are_one_graph(kind: type[Sampled]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = simplified(built(kind))
        steps = 3 if kind.__name__ in GIVEN else 0 if kind.__name__ in COMPILED else 22
        for step in range(steps):
            seed(step)
            fast.prepare(step)
            arguments = fast.arguments(image(3, step), step)
            fast(*arguments) if isinstance(arguments, tuple) else fast(arguments)
    is_compiled = any(selects(program.graph) for program in fast._toponas.programs)
    assert is_compiled == (kind.__name__ in COMPILED | GIVEN | KEPT)
    assert any(program.kept for program in fast._toponas.programs) == (kind.__name__ in KEPT)
