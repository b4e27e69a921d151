"""Requests and status as typed values, and the client of a daemon's control socket."""
