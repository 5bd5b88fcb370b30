"""The commands of ``tcmn``; ``bundle.cli`` reads their options."""
