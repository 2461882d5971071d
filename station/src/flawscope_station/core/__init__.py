"""What every station has, put together of the rooms below it; features stand on it (`extension`)."""
