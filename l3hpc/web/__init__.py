"""Self-contained HTML pages: templates, styles and scripts in ``assets/``, and code to fill them.

The report of a run and the page of the results tables are made with it. Each page is one file that
loads nothing from elsewhere; all values from a run are escaped.
"""
