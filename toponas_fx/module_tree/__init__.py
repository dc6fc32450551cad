"""The user's tree of modules: where its tensors are, whether it is what it was, copies of it, runs without a trace.

``tensor_paths`` finds the path of a tensor; ``snapshots`` keeps pictures of Python values to compare with later;
``layers`` knows torch's own layers and what their forwards read; ``index`` tells whether a tree is still what it was;
``copying`` copies a tree over the same tensors; ``isolation`` runs a model and puts tensors, generators and flags
back; ``code_names`` are the names that a function's code looks up.

May use: ``analysis``, ``errors``.
"""
