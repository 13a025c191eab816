"""`make proto`: compiles open_inference.proto to the descriptor that `messages` loads, and to its types.

Needs grpcio-tools, which is among the packages for development.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PROTO = HERE / "open_inference.proto"
DESCRIPTOR, TYPES = "open_inference.descriptor", "messages.pyi"


def generate(folder: Path) -> None:
    """Writes DESCRIPTOR (a FileDescriptorSet) and TYPES into the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={HERE}", f"--pyi_out={temporary}"]
        subprocess.run([*command, f"--descriptor_set_out={folder / DESCRIPTOR}", PROTO.name], check=True)
        (types,) = Path(temporary).glob("*.pyi")
        (folder / TYPES).write_text(types.read_text())


if __name__ == "__main__":
    generate(HERE)
