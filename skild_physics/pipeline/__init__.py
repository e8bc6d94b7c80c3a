"""The whole pipeline on small real cases: what ``skild-physics reproduce`` runs."""
