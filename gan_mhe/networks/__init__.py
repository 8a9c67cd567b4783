"""Generators and discriminators: tensors to tensors, ignorant of losses, penalties, data and config."""
