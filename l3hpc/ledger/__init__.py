"""The results tables: columns, journals, the fold into rows, views, and Google Sheets.

``schema`` declares the columns: a new one is an entry there. Jobs append to ``journal``; ``views``
and ``sheets`` show what is folded from it.
"""
