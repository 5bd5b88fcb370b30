"""Checks every annotation of the package while its tests run, tensor shapes included."""

from jaxtyping import install_import_hook

# The tower: an int passes for a float, as type checkers allow.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook("bundle", CHECKER)
