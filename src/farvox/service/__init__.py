"""The verifier as a service: HTTP on one port, with limits on all that a stranger can send."""
