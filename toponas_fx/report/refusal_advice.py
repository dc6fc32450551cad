"""What a user can do where a pass refused: a sentence for each reason that lies in the user's hands."""

from __future__ import annotations

import re

_ADVICE = (
    (
        "draws at random, writes in place, has hooks or is none whose effects are known",
        "write ReLU(inplace=False), register hooks outside the candidates, build them of torch's own layers",
    ),
    ("module runs in several places", "give every candidate modules of its own"),
    ("something else reads what a norm counts", "give every norm running statistics of its own"),
    ("written in place", "do not write in place inside forward: inplace=False, x = x + y instead of x += y"),
    ("(built|adds?|added) in place", "do not add in place inside forward: x = x + y instead of x += y"),
    (
        "what feeds .* is no convolution or linear layer whose kernel could be normalized",
        "leave out the norm behind a pooling, or let it be: it stays the candidate's own",
    ),
    ("kernel that feeds it is computed", "keep kernels as parameters of their layers, without weight_norm or pruning"),
    (
        "is read in several places|read by a module that runs whole",
        "let each layer have a kernel of its own",
    ),
    ("constant weight", "let each candidate have an architecture weight of its own"),
    ("candidate is subtracted", "add candidates; put a sign into the candidate"),
    ("another candidate carries the same weight", "let each candidate have an architecture weight of its own"),
    ("something else reads its stacked terms", "keep the stacked candidates nowhere else"),
    ("its terms have unlike types", "let all candidates of an edge return one shape and dtype"),
    ("its weights are not", "bring the architecture weights to the dtype of the images"),
    (
        "reaches across a switch of grad mode",
        "put no no_grad() around single candidates",
    ),
    ("their running statistics differ", "load statistics that agree, or leave it: only equal norms count as one"),
    ("their statistics are means over all batches", "give the norms a momentum other than None"),
    (
        "it draws at random, writes in place or has effects",
        "let equal work be free of draws and in-place writes",
    ),
    ("costs more merged with its siblings than apart", "MergeKernels(slack=2.0) merges all the same"),
    ("has another stride, centre or number of groups", "pad every candidate by half its kernel, at one stride"),
    ("normalized per kernel only", 'normalize="kernel" treats all kernels alike'),
    ("all its candidates are zero", "leave such an edge out of the cell"),
)


def advice_on(reason: str) -> str:
    """Return what the user could do about a refusal; empty where that lies in nobody's hands."""
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, reason)), "")
