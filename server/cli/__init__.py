"""The `gan-mhe` command: the library's commands and the service's."""
