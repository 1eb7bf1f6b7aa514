"""The Google Sheet, a view of the ledger.

``client`` sends requests; ``grid`` is a reading of the sheet; ``diff`` plans what to write;
``requests`` and ``anchors`` turn that into requests; ``rollback`` finds cells that went to a wrong
place; ``sync`` does all of it in turn; ``repair`` restores columns and adopts rows of people.
"""
