"""ext4 disks, as tests/ext4 makes them."""
from tests.ext4.conftest import ext4, image  # noqa: F401
