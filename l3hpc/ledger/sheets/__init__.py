"""The Google sheet, a view of the ledger: read, compared, written, checked, rolled back."""
