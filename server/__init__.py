"""The service: training jobs over REST, supervised, streamed and compared. It never imports torch."""
