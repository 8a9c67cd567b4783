"""The database and everything kept in it. No HTTP, no processes."""
