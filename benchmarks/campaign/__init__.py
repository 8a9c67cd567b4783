"""A campaign of random harm against a running service with real workers, with an audit after each round.

    python -m benchmarks.campaign --minutes 60 --out DIR --seed N

A round submits jobs, harms the service at a random moment, undoes the harm, waits until all jobs have ended, and audits
everything that was ever trained. `harms/` contains the harms, `auditor.py` what must hold.
"""
