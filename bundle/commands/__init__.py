"""What the commands of ``tcmn`` do; ``bundle.cli`` reads their options."""
