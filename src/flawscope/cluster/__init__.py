"""The same commands on a Ray cluster (extra `cluster`). Nothing else imports ray, and this room only when a
command is told to use a cluster."""
