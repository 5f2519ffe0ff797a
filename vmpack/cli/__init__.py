"""The command line: parse, call one function of :mod:`vmpack.ops`, print, exit.

Nothing here is library: options, JSON documents and exit codes are the contract that
``specs/cli-v1.md`` writes down. Each command is one module, imported when it is invoked.
"""
