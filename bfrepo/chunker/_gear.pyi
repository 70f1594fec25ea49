from typing_extensions import Buffer

def cut(
    data: Buffer,
    start: int,
    end: int,
    final: bool,
    table: Buffer,
    minimum: int,
    average: int,
    maximum: int,
    /,
) -> list[int]: ...
def is_zero(data: Buffer, start: int, end: int, /) -> bool: ...
