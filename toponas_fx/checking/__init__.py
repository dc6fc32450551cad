"""Does a simplified model compute what it did? The oracle behind ``toponas_fx.check`` and the testing kit.

``check`` copies a model to float64 (``precision``), simplifies it in both modes and compares runs (``comparison``); in
mode ``"share"`` it puts every mixed operation at each of its candidates (``one_hot``, with ``weight_values``).
``verdict`` says what was found. ``bench`` measures a step beside the original's.

May use: ``api`` and below.
"""
