"""What runs leave in their directories, read into the store; what is kept and deleted there."""
