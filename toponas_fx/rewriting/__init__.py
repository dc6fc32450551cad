"""How graphs are changed: by passes, through one rewriter, checked after each.

``pass_base`` says what a pass is: ``plan`` finds, ``apply`` changes one match. ``rewriter`` alone changes graphs: it
makes names, notes who made what from what, follows replaced nodes from one match to the next, and refuses a node that
was erased. ``pipeline`` runs passes in order and keeps a record; ``verifier`` looks at what each left behind.

A new pass goes into ``passes/``, one file a rule; see "Writing a pass" in the documentation.

May use: ``analysis``, ``ops``, ``ir``, ``errors``, ``progress``.
"""
