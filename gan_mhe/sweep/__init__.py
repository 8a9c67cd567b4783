"""Many runs: planned, executed in processes, resumed."""
