"""Time imports, or the first mask, in a new process. startup.py starts it.

python scripts/dev/benchmarks/new_process.py imports
python scripts/dev/benchmarks/new_process.py first_mask BACKEND VIDEO MASK

Prints one line of JSON. Times are in seconds since the process started.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]


def age() -> float:
    """Seconds since this process started, to a hundredth."""
    return time.time() - psutil.Process().create_time()


def imports() -> dict[str, float]:
    """Time the imports of torch and MONAI, then of ``bundle``, then of what inference.yaml imports."""
    import_module("torch")
    import_module("monai.bundle")
    libraries = age()
    begin = time.perf_counter()
    import_module("bundle")
    package = time.perf_counter() - begin
    lines = (ROOT / "configs/inference.yaml").read_text().splitlines()
    for line in lines:
        if line.startswith("  - $import bundle."):
            import_module(line.split()[-1])
    everything = time.perf_counter() - begin
    return {
        "s_import_torch_monai": libraries,
        "s_import_bundle": package,
        "s_import_inference": everything,
    }


def first_mask(backend: str, video: str, mask: str) -> dict[str, float]:
    """Time inference by configs/inference.yaml, up to the first predicted mask, that of frame 1."""
    from monai.bundle import ConfigParser

    imported = age()
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/inference.yaml"))
    config["backend"], config["video"], config["mask"] = backend, video, mask
    network = config.get_parsed_content("network")
    prompted = config.get_parsed_content("dataset")[0]["image"]
    inferer = config.get_parsed_content("inferer")
    ready = age()
    results = inferer(prompted, network)
    for _ in range(2):
        next(results)
    return {"s_monai_imported": imported, "s_network_ready": ready, "s_first_mask": age()}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    found = imports() if sys.argv[1] == "imports" else first_mask(*sys.argv[2:])
    print(json.dumps(found))
