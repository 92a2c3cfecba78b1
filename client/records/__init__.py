"""What a site remembers: its store, the patients' accounts, the ledger and the audit log."""
