"""Runs inside the user's kernel, loaded by path in a stranger's environment.

Stdlib only, torch late, relative imports only, Python 3.9 syntax; imports nothing of this package outside agent/.
"""
