"""What answers look like, one file a resource. Files and folders of the server are never shown."""
