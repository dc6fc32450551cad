"""The side of a simplified model that its user sees: a call, the class, what to say about it.

``dispatch`` finds the program for a call, or has one made; ``assembly`` makes the class that joins facade and user;
``unused_parameters`` finds and retires what no program reads; ``notes`` and ``unmixed`` are sentences for the report.

May use: ``compiling``, ``runtime`` and below.
"""
