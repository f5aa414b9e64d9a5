"""The parameter server: shards, the rule that applies pushes, and the ways to reach it.

Nothing here knows models or data: only flat vectors and integers.
"""
