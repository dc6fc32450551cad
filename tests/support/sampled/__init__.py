"""Supernets that sample a path at each step, each in the idiom of one code base, and the steps taken with them."""
