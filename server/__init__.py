"""The service: training jobs over REST, supervised, streamed and compared. Nothing here imports torch."""
