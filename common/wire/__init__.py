"""What travels between a coordinator and a site.

Flower and Ray report their use over the network unless told otherwise before they are imported.
They are told here, so that importing anything of this package is enough.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
