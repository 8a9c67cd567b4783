"""The commands of the library; `server.cli` assembles `gan-mhe` from them and the service's."""
