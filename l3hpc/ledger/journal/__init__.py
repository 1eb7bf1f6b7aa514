"""The journals, the source of truth of the ledger.

``records`` writes them; ``reading`` and ``batch`` read them; ``fold`` makes rows of records;
``upkeep`` compacts and repairs the files.
"""
