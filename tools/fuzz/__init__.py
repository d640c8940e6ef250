"""Mutation fuzzer: structure-aware damage to real images, and a run through everything that reads them.

`python -m tools.fuzz --help` drives it; `tools.fuzz.coverage_guided` is the same under atheris.
"""
