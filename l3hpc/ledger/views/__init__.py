"""The ledger for people: a table in the terminal, CSV and XLSX files, a page, data frames."""
