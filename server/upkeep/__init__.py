"""What keeps the data of a service: backup, restore, adoption of runs without a row, and examination."""
