"""The database, and the queries on what it holds. No HTTP, no processes."""
