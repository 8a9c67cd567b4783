"""What happens to attempts: started, watched, ended."""
