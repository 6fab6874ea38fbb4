"""A JupyterHub service: policies for everyone, the fleet's log and state, pressure between servers, admins' pages."""
