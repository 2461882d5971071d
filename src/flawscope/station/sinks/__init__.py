"""Where inspections go: webhooks, folders, an MQTT broker. Each has a thread and a place in the store of its
own, so that a slow or dead one harms nothing else."""
