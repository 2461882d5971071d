"""EfficientAD (Batzner, Heckler and König, WACV 2024)."""
