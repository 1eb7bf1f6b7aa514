"""The results tables: columns, journals, the fold into rows, views, and Google Sheets."""
