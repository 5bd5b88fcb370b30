"""Results as printed in the paper, for its own splits of the data sets.

Chen et al., One-Shot Medical Video Object Segmentation via Temporal Contrastive Memory Networks,
MICCAI 2024 / arXiv:2503.14979, tables 1 and 2: J, F and Dice in percent, by the authors' code and
split. Reports show them beside measured results for orientation only.

Two remarks. In table 2 the row without L_tc repeats STCN's Dice of both classes, F of the left
atrium, and F and Dice of the mean: evidently an error, so only its J can be compared. In the row
"Ours" of table 1 a few digits (J and F of CVC-ClinicDB, Dice of ASU-Mayo) were hard to read in our
copy; the values here are those that fit the printed means and differences.
"""

Triple = tuple[float, float, float]

SOURCE = "Chen et al., arXiv:2503.14979"
ERROR_NOTE = (
    "In the row without L_tc the paper repeats STCN's Dice of both classes, F of the left atrium, and "
    "F and Dice of the mean, evidently an error: compare that row by J only."
)
OURS = "TCMN (the paper's)"
WITHOUT_LTC = "TCMN without L_tc (the paper's)"

# Method: ASU-Mayo, CVC-ClinicDB, HMC-QU.
TABLE_1: dict[str, tuple[Triple, Triple, Triple]] = {
    "AFB-URR": ((62.23, 70.02, 68.98), (77.22, 68.07, 85.64), (86.59, 98.91, 92.76)),
    "STCN": ((68.58, 76.97, 77.30), (82.72, 77.76, 89.27), (89.94, 99.38, 94.66)),
    "AOT": ((67.29, 75.24, 75.57), (77.03, 65.38, 85.18), (77.49, 94.55, 87.25)),
    "JOINT": ((70.08, 77.71, 78.79), (77.27, 67.07, 86.01), (84.36, 97.65, 91.44)),
    "DeAOT": ((70.68, 79.79, 79.56), (74.24, 64.89, 82.89), (77.11, 94.55, 87.00)),
    "RPCM": ((58.49, 62.72, 66.15), (62.07, 48.95, 73.73), (38.13, 52.47, 51.05)),
    "RDE": ((61.89, 69.00, 70.49), (77.18, 70.66, 85.53), (87.65, 98.94, 93.36)),
    "XMem": ((67.58, 76.12, 76.15), (82.74, 76.46, 89.58), (90.41, 99.38, 94.92)),
    "Cutie": ((61.89, 69.32, 67.99), (66.74, 56.58, 74.88), (72.21, 87.99, 83.61)),
    WITHOUT_LTC: ((70.52, 79.48, 79.48), (84.16, 77.77, 90.57), (90.25, 99.50, 94.83)),
    OURS: ((71.34, 80.13, 80.37), (84.82, 80.61, 90.75), (90.50, 99.47, 94.98)),
}

# Method: left ventricle, left atrium, their mean, all of CAMUS.
TABLE_2: dict[str, tuple[Triple, Triple, Triple]] = {
    "AFB-URR": ((66.65, 39.61, 77.55), (51.83, 30.32, 63.50), (59.24, 34.97, 70.52)),
    "STCN": ((75.98, 54.72, 84.91), (72.46, 57.24, 81.12), (74.22, 55.98, 83.02)),
    "AOT": ((79.09, 61.02, 86.44), (63.64, 40.89, 74.31), (71.37, 50.96, 80.38)),
    "JOINT": ((62.22, 29.65, 75.00), (53.87, 24.66, 66.03), (58.04, 27.16, 70.52)),
    "DeAOT": ((78.73, 53.05, 87.75), (51.60, 32.10, 61.12), (65.17, 42.57, 74.43)),
    "RPCM": ((54.89, 26.44, 69.01), (44.44, 21.53, 58.09), (49.67, 23.98, 63.55)),
    "RDE": ((20.64, 26.75, 29.23), (21.14, 27.36, 29.55), (20.89, 27.05, 29.39)),
    "XMem": ((72.27, 37.98, 83.16), (80.34, 57.68, 88.70), (76.30, 47.83, 85.93)),
    "Cutie": ((82.59, 56.36, 90.31), (72.67, 49.87, 82.46), (77.63, 53.11, 86.39)),
    WITHOUT_LTC: ((80.06, 56.46, 84.91), (73.80, 57.24, 81.12), (76.93, 55.98, 83.02)),
    OURS: ((81.56, 58.55, 89.35), (83.10, 66.37, 90.33), (82.33, 62.46, 89.84)),
}


def printed_rows(protocol: str, columns: list[str]) -> tuple[str, dict[str, dict[str, Triple]]]:
    """The paper's results for a protocol: the table's name, and method -> column -> J, F and Dice.

    Args:
        protocol: A name in ``bundle.datasets.protocols``.
        columns: Class names, and ``mean``.

    Returns:
        Only the given columns; an empty text and mapping if the paper has no such data set.
    """
    seen = {"asu_mayo": ("polyp", 0), "cvc_clinicdb": ("polyp", 1), "hmc_qu": ("LV wall", 2)}
    if protocol in seen:
        name, place = seen[protocol]
        rows = {method: {name: triples[place]} for method, triples in TABLE_1.items()}
        table = "table 1"
    elif protocol in ("camus_unseen", "camus_unseen_from_es"):
        names = ("LV cavity", "left atrium", "mean")
        rows = {
            method: dict(zip(names, triples, strict=True)) for method, triples in TABLE_2.items()
        }
        table = "table 2"
    else:
        return "", {}
    wanted = {
        method: {name: triple for name, triple in row.items() if name in columns}
        for method, row in rows.items()
    }
    return f"{SOURCE}, {table}", {method: row for method, row in wanted.items() if row}
