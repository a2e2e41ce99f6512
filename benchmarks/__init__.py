"""What fanwire costs, measured beside its peers and beside what the interpreter itself can do.

``python -m benchmarks`` runs everything (under five minutes on two cores) and writes ``results/fanout.json`` and ``results/fanout.md``. README.md in this
directory says how the figures are made and how far to trust them.
"""
