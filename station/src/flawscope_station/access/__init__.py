"""Accounts: who may do what, sessions, roles, and the record of what people did."""
