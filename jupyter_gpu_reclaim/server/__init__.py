"""Inside jupyter_server: wiring, the agents' socket, the observer, and the HTTP surface."""
