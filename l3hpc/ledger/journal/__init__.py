"""The journals, the truth of the ledger: what jobs append, read whole and folded into rows."""
