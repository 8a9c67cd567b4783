"""Commands of the library; `server.cli` combines them with those of the service into `gan-mhe`."""
