"""Generators and discriminators. They know nothing about losses, penalties, data or configuration."""
