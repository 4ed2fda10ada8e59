"""The command, with batches of four that take a while and are saved at once: tests can kill it at any of them."""

import sys
import time

from shoal import heartbeat
from shoal.cli.main import main
from shoal.features import Encoder, extract, filling

filling._COMMIT_SECONDS, filling._COMPUTING = 0, 1
heartbeat.BEAT_SECONDS, heartbeat.SILENT_SECONDS = 0.5, 5
extract.choose_batch_size = lambda _encoder: 4
embed = Encoder.embed


def slowly(self, pixels):
    if len(pixels) > 1:
        time.sleep(0.1)
    return embed(self, pixels)


Encoder.embed = slowly

if __name__ == "__main__":
    sys.exit(main())
