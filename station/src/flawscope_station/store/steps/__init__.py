"""Steps by which `migrations` brings the tables of earlier versions to this one, each a file of its own."""
