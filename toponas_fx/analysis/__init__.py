"""What a graph says, asked without changing it: a page of questions, each in a file of its own.

About mixed operations: ``mixed_ops`` (the normal form ``mixed_sum(terms, weights, edges)``), ``weight_elements``,
``stages``, ``topology``. About operations: ``linear_ops``, ``pooling_ops``, ``stacked_terms``, ``labels``. About
modules: ``module_signature``, ``module_calls``, ``norm_inputs``. About what may move, go or merge: ``effects``,
``memory``, ``model_reads``, ``parts``, ``image_layouts``. About what it costs: ``costs``, ``merge_cost``.

An analysis is a noun, takes a graph or a node, and is pure. One that is asked for often is remembered while passes run
(``ir.known_facts``). What is not known to be harmless counts as harmful: an unknown function has effects, an unknown
value may share memory.

May use: ``ir``, ``ops``, ``errors``.
"""
