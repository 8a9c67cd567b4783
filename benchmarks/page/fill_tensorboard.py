"""Write a log directory of TensorBoard. Run by the Python of TensorBoard's own environment, which has nothing of ours.

python fill_tensorboard.py SOURCE LOGDIR

SOURCE has `values.bin`, doubles of the steps 1, 2, ..., and `grids/STEP.png`.
"""

import array
import sys
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

SIDE = 256


def main(source: Path, logdir: Path) -> None:
    """Write one run with the series `d_loss` and the images `samples`."""
    values = array.array("d")
    values.frombytes((source / "values.bin").read_bytes())
    grids = {int(file.stem): file.read_bytes() for file in (source / "grids").iterdir()}
    (logdir / "run").mkdir(parents=True)
    with open(logdir / "run" / "events.out.tfevents.1.page", "wb") as file:
        writer = RecordWriter(file)
        writer.write(event_pb2.Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for step in range(len(values) + 1):
            if step in grids:
                image = summary_pb2.Summary.Image(
                    height=SIDE, width=SIDE, colorspace=3, encoded_image_string=grids[step]
                )
                write(writer, step, summary_pb2.Summary.Value(tag="samples", image=image))
            if step:
                write(writer, step, summary_pb2.Summary.Value(tag="d_loss", simple_value=values[step - 1]))
        writer.flush()


def write(writer: RecordWriter, step: int, value: summary_pb2.Summary.Value) -> None:
    """Write an event with one value, at a time of its own."""
    summary = summary_pb2.Summary(value=[value])
    writer.write(event_pb2.Event(wall_time=1.0 + step / 1000, step=step, summary=summary).SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
