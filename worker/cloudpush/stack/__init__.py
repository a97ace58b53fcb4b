"""The embedded stack: real servers, started, watched and stopped together.

:mod:`cloudpush.stack.up` runs all of it; single servers are in :mod:`cloudpush.stack.services`.
"""
