"""Segment a video with the ONNX network, without PyTorch, from the mask of its first frame.

    python scripts/demo/run_onnx.py --network output/onnx --video VIDEO --mask MASK --output_dir masks

``propagate`` is the whole method in one function, to copy into your own program. docs/deploy.md
describes the graphs and their shapes.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from onnxruntime import InferenceSession, get_available_providers
from PIL import Image

STRIDE, MEMORY_EVERY = 16, 5
LAST_WEIGHT = np.array([0.1], np.float32)
STILLS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# Colours of DAVIS: bits 0, 1, 2 of an id are the top bits of red, green, blue; 3, 4, 5 the next.
PALETTE = [128, 64, 32] @ (np.arange(256)[:, None] >> np.arange(9) & 1).reshape(-1, 3, 3)


def load(folder: Path) -> list[Any]:
    """Load the three graphs: encode, memorize, read_and_decode. On a GPU if onnxruntime has one.

    Raises:
        FileNotFoundError: A graph is missing.
    """
    kinds = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [kind for kind in kinds if kind in get_available_providers()]
    paths = [folder / f"{name}.onnx" for name in ("encode", "memorize", "read_and_decode")]
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no {missing[0]}: write it with `tcmn export`")
    return [InferenceSession(path, providers=providers) for path in paths]


def propagate(
    graphs: list[Any],
    frames: Iterable[ndarray],
    first: ndarray,
    size: int,
    max_memory_frames: int | None,
) -> Iterator[ndarray]:
    """Yield the label map of each frame, in order.

    The first frame and every fifth stay in memory; the last frame is in it, too, and counts little.
    When the memory is full, the oldest frame but the first is dropped.

    Args:
        graphs: From ``load``.
        frames: (H, W, 3) uint8 RGB each.
        first: (H, W) uint8 object ids of the first frame.
        size: Shorter side of the frames in the network, in pixels.
        max_memory_frames: Most frames in memory; None for no limit.

    Yields:
        (H, W) uint8 object ids.

    Raises:
        ValueError: A frame has another size than the mask.
    """
    encode, memorize, read_and_decode = graphs
    ids = np.insert(np.unique(first[first > 0]), 0, 0)  # background and the objects
    height, width = (max(STRIDE, round(n * size / min(first.shape))) for n in first.shape)
    # Some networks also take the masks of the previous frame, or masks with unknown pixels.
    looks_back = "previous" in [each.name for each in read_and_decode.get_inputs()]
    partial = "unknown" in [each.name for each in memorize.get_inputs()]
    memory: dict[str, ndarray] = {}
    for index, frame in enumerate(frames):
        if frame.shape[:2] != first.shape:
            found = f"frame {index} is {frame.shape[:2]} (rows, columns), the mask {first.shape}"
            raise ValueError(f"{found}: give both at one size")
        image = enter(frame.transpose(2, 0, 1), height, width) / 255
        key, query, stride16, stride8, stride4 = encode.run(None, {"image": image})
        if index == 0:
            labels, masks = first, enter(first == ids[1:, None, None], height, width)
        else:
            features = {"key": key, "query": query, "stride8": stride8, "stride4": stride4}
            if looks_back:
                features["previous"] = masks
            logits, masks = read_and_decode.run(None, {**features, **memory})
            labels = ids[resize(logits[0, :, :height, :width], *first.shape).argmax(0)]
        stays = index % MEMORY_EVERY == 0
        given = {"stride16": stride16, "masks": masks}
        if not stays:  # two thirds of the size are enough, and take half the time
            rows, columns = ((2 * side + 1) // 3 for side in key.shape[2:])
            given = {
                "stride16": sample(stride16, rows, columns),
                "masks": sample(masks, STRIDE * rows, STRIDE * columns),
            }
        if partial:
            given["unknown"] = np.zeros_like(given["masks"])
        value = memorize.run(None, given)[0]
        if not stays:
            value = sample(value, *key.shape[2:])
        weight = np.ones(1, np.float32) if stays else LAST_WEIGHT
        new = {"keys": key, "values": value, "weights": weight}
        if index and memory["weights"][-1] < 1:  # the frame before stays no longer
            memory = {name: held[:-1] for name, held in memory.items()}
        elif index and len(memory["keys"]) == max_memory_frames:  # the oldest but the first goes
            memory = {name: np.delete(held, 1, axis=0) for name, held in memory.items()}
        memory = {n: np.concatenate([memory.get(n, new[n][:0]), new[n]]) for n in new}
        yield labels


def enter(channels: ndarray, height: int, width: int) -> ndarray:
    """Resize (C, H, W) to a height and width, pad with zeros to multiples of 16: (1, C, H', W')."""
    padding = ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE))
    return np.pad(resize(channels, height, width), padding)[None]


def resize(channels: ndarray, height: int, width: int) -> ndarray:
    """Resize bilinearly, with antialiasing when shrinking: (C, H, W) to float32 (C, height, width)."""
    shape, bilinear = (width, height), Image.Resampling.BILINEAR
    pictures = (Image.fromarray(channel) for channel in channels.astype(np.float32))
    return np.stack([np.asarray(picture.resize(shape, bilinear)) for picture in pictures])


def sample(maps: ndarray, height: int, width: int) -> ndarray:
    """Resize (..., H, W) bilinearly, without antialiasing, to float32 (..., height, width)."""
    rows, columns = maps.shape[-2:]
    shape, where = (width, height), (columns / width, 0, 0, 0, rows / height, 0)
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    pictures = (Image.fromarray(each) for each in maps.reshape(-1, rows, columns))
    sampled = [np.asarray(each.transform(shape, affine, where, bilinear)) for each in pictures]
    return np.reshape(sampled, (*maps.shape[:-2], height, width))


def read_frames(path: Path) -> Iterator[ndarray]:
    """Yield RGB frames (H, W, 3) uint8 of a video file or a folder of pictures.

    Pictures are sorted by the numbers in their names: 2 comes before 10.

    Raises:
        ValueError: The folder has no pictures, or one has more than 8 bits a channel.
    """
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in STILLS]
        if not files:
            raise ValueError(f"{path} holds no frames: expected {', '.join(STILLS)} files")
        for file in sorted(files, key=lambda f: re.sub(r"\d+", lambda n: n[0].zfill(20), f.name)):
            with Image.open(file) as picture:
                if picture.mode.startswith(("I", "F")):
                    raise ValueError(f"{file} has {picture.mode} pixels: expected 8 bits a channel")
                yield np.asarray(picture.convert("RGB"))
        return
    import av  # needed for video files only

    with av.open(path.absolute()) as container:
        for frame in container.decode(video=0):  # FFmpeg and NumPy both rotate anticlockwise
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def read_mask(path: Path) -> ndarray:
    """Read object ids, (H, W) uint8, from a grey or palette picture; of 0 and 255 make 0 and 1.

    Raises:
        ValueError: The picture is in colour, is empty, or holds more than 32 objects.
    """
    with Image.open(path) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise ValueError(f"{path} has {picture.mode} pixels: save it in grey or with a palette")
        labels = np.asarray(picture).astype(np.uint8)
    ids = np.unique(labels[labels > 0])
    if not 0 < len(ids) <= 32:
        found = f"holds {len(ids)} labels (soft edges?)" if len(ids) else "is empty"
        raise ValueError(f"{path} {found}: expected 1 to 32 objects, a number for each")
    return (labels > 0).astype(np.uint8) if list(ids) == [255] else labels


def write_masks(label_maps: Iterable[ndarray], folder: Path) -> None:
    """Write palette PNGs ``00000.png`` and so on in a new folder. It appears when all are written.

    Raises:
        FileExistsError: The folder exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose another --output_dir")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        (partial := Path(scratch, "masks")).mkdir()
        for index, labels in enumerate(label_maps):
            picture = Image.fromarray(labels)
            picture.putpalette(PALETTE.ravel().tolist())
            picture.save(partial / f"{index:05d}.png")
        partial.rename(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, required=True, help="folder of the ONNX files")
    parser.add_argument(
        "--video", type=Path, required=True, help="video file or folder of pictures"
    )
    parser.add_argument("--mask", type=Path, required=True, help="mask of the first frame")
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder of the masks")
    parser.add_argument(
        "--inference_size", type=int, default=320, help="shorter side in the network, in pixels"
    )
    parser.add_argument(
        "--max_memory_frames", type=int, help="most frames in memory (default: no limit)"
    )
    options = parser.parse_args(arguments)
    if options.inference_size < STRIDE or (
        options.max_memory_frames is not None and options.max_memory_frames < 2
    ):
        parser.error(f"--inference_size must be {STRIDE} at least, and --max_memory_frames 2")
    try:
        graphs, first = load(options.network), read_mask(options.mask)
        frames, size = read_frames(options.video), options.inference_size
        write_masks(
            propagate(graphs, frames, first, size, options.max_memory_frames), options.output_dir
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
