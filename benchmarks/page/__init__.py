"""What the page costs its reader: measurements in a real browser, beside TensorBoard and MLflow if asked for."""
