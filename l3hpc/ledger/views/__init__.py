"""Views of the ledger: tables in the terminal, CSV and XLSX files, an HTML page, data frames."""
