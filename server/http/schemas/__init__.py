"""Schemas of responses, one file per resource. They never contain paths of the server."""
