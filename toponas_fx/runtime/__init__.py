"""What a simplified model is between calls: compiled graphs, when they hold, and what it remembers.

``program`` is a compiled graph with its guards; ``state`` is all that a model remembers; ``refusals`` say why a call
runs as its user wrote it, and until when; ``normalized_layers`` lets layers that are called by themselves see
normalized kernels; ``equal_statistics`` watches norms of which one counts for others; ``state_dict`` knows the names
in checkpoints; ``simplified_module`` is the class of simplified models, ``inspection`` a view of one, ``measure`` its
costs.

May use: ``report``, ``capture``, ``module_tree``, ``rewriting`` and below; not ``passes``.
"""
