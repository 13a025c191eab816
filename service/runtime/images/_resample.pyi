def resample(
    pixels: object,
    width: int,
    height: int,
    interpolation: str,
    box: tuple[float, float, float, float],
    out: object,
    out_width: int,
    out_height: int,
) -> None: ...
def axis(interpolation: str, source: int, start: float, end: float, size: int) -> bytes: ...
