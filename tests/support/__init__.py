"""What several tests share: paths, stand-ins and typed helpers, imported by name."""
