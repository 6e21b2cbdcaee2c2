"""The flight record: one small JSON file from which a clip or a live flight can be drawn again, here or elsewhere.

    record = FlightRecord.from_stream(stream)       # a live flight, as far as it has been flown
    frames = replay(pipe, record)                   # wanact.replay
    fork = record.until(12)                         # the same flight, up to latent frame 12

`python -m wanact.flight replay FILE --checkpoints A B --out DIR` does it from the command line.
"""

from wanact.flight.record import MAX_BYTES as MAX_BYTES
from wanact.flight.record import MAX_SEED as MAX_SEED
from wanact.flight.record import VERSION as VERSION
from wanact.flight.record import FlightError as FlightError
from wanact.flight.record import FlightRecord as FlightRecord
from wanact.flight.record import image_sha256 as image_sha256
