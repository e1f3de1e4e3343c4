"""What else can be asked of models, methods and metrics: one module for each verb of the command line.

`validation` (is it right?), `comparison` and `peer_comparison` (is it fast?), `throughput`, `trust` (which metrics can be
believed?), `sanity` (what maps depend on), `doctor` (what works here); `publish` writes what they find.
"""
