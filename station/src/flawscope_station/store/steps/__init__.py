"""Steps with which `migrations` brings the tables of earlier versions to this one, a file for each step."""
