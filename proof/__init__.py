"""Proof that what comes without weights computes what the reference does: for development only.

Networks of the reference get seeded random weights, in an environment of their own; the files it would publish are
loaded here; both see the same photographs.
"""
