"""Benchmarks of the example supernets, run as scripts."""
