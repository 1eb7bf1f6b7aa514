"""HTML pages that stand alone: templates, styles and scripts in ``assets/``, and what fills them.

The report of a run and the page of the results tables are made here. Each is one file that asks
for nothing from outside; whatever comes from a run is escaped.
"""
