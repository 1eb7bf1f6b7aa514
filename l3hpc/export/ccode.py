"""The flatbuffer as a C array with a header, for a linker that puts it into flash."""

from __future__ import annotations

from l3hpc.export.graph import Graph

NAME = "l3_model"


def header(graph: Graph, size: int, arena: int) -> str:
    """``l3_model.h``.

    size: of the flatbuffer, in bytes. arena: to reserve, in bytes (0 where nobody knows).
    """
    operators = sorted({graph.name(operator) for operator in graph.operators})
    ends = "\n".join(_end(graph, kind, tensor) for kind, tensor in
                     (("INPUT", graph.inputs[0]), ("OUTPUT", graph.outputs[0])))
    reserve = f"#define L3_MODEL_ARENA {arena} /* bytes on 64 bits, fewer on 32 */\n" * bool(arena)
    return f"""/* A TensorFlow Lite model. Made by l3hpc export.
 * Operators for the resolver: {', '.join(operators)}
 */
#ifndef L3_MODEL_H
#define L3_MODEL_H

#ifdef __cplusplus
extern "C" {{
#endif

#define L3_MODEL_BYTES {size}
{reserve}{ends}

extern const unsigned char {NAME}[L3_MODEL_BYTES]; /* begins at a multiple of 16 */

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(flatbuffer: bytes) -> str:
    """``l3_model.c``."""
    lines = [",".join(f"{byte}" for byte in flatbuffer[start:start + 32])
             for start in range(0, len(flatbuffer), 32)]
    return (f'/* Made by l3hpc export. */\n#include "l3_model.h"\n\n'
            f"const unsigned char {NAME}[L3_MODEL_BYTES] __attribute__((aligned(16))) = {{\n"
            + ",\n".join(lines) + "\n};\n")


def _end(graph: Graph, kind: str, tensor: int) -> str:
    shape = graph.shape(tensor)
    count = 1
    for size in shape:
        count *= size
    lines = [f"#define L3_MODEL_{kind}_COUNT {count} /* "
             f"{' x '.join(map(str, shape))}, {graph.type(tensor).lower()} */"]
    scale, zero = graph.quantisation(tensor)
    if scale:
        lines += [f"#define L3_MODEL_{kind}_SCALE {scale:.9g}f /* real = scale * (value - zero) */",
                  f"#define L3_MODEL_{kind}_ZERO {zero}"]
    return "\n".join(lines)
