"""From a recorded call to a program: one way, for the first capture, for later ones and for what tuning tries.

``compiler.build_program`` runs passes over a recorded graph. ``fail_open`` undoes a pass that fails and goes on
without; ``decide_sharing`` says when it is decided what a model shares, and holds all later graphs to it.

May use: ``runtime``, ``passes`` and below.
"""
