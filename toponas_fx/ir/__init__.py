"""What is known of a graph besides its nodes: the vocabulary that every other room speaks.

``tensor_type`` states what a value is (``f32[2,4,8,8]``); ``printer`` writes a graph as text, one line a node, for
errors, logs and golden tests; ``serialization`` turns a graph into plain data and back; ``decisions`` holds what was
decided once for a model and binds all of its graphs: which modules are tied, which kernels are normalized;
``known_facts`` remembers what passes ask for again and again, until a graph or a tree changes.

A graph is a ``torch.fx.Graph``. A node's ``meta`` has ``type``; ``origin``, the captured nodes that it was made from;
``made_by``, the pass that made it; ``scope``, the path of the module whose forward was running; ``where``, the user's
file and line; ``grad``, whether gradients were on; ``mutates``, what it writes to.

May use: ``errors``.
"""
