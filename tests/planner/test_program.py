"""Layouts and instructions of a compiled program's text; bytes are counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from dn_jax.planner import program
from dn_jax.planner.program import FAST, HBM, Array

TEXT = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

FileNames
1 "a.py"

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

ENTRY %main.3 (x: f32[2]) -> (f32[2], f32[]) {
  %x = f32[2]{0:T(128)} parameter(0), metadata={op_name="params[\\'a\\'](b) = {c}"}
  %zero = f32[]{:T(128)} constant(0)
  %pair = (f32[2]{0:T(128)}, /*index=1*/f32[]{:T(128)}) fusion(%x, %zero), calls=%sum, b={"estimated_cycles":"70"}
  %one = f32[2]{0:T(128)} get-tuple-element(%pair), index=0
  ROOT %out = (f32[2]{0:T(128)}, f32[]{:T(128)}) tuple(%one, %zero)
}
"""


@pytest.mark.parametrize(
  ("layout", "size", "space"),
  [
    # As listed, the first dimension is minor: 128 images in the lanes, then 12 channels, which take two rows of 8.
    ("bf16[128,32,32,12]{0,3,2,1:T(8,128)(2,1)}", 128 * 16 * 32 * 32 * 2, HBM),
    ("bf16[64,32,32,12]{0,3,2,1:T(8,128)(2,1)S(1)}", 128 * 16 * 32 * 32 * 2, FAST),
    ("f32[3,3,48,12]{2,3,1,0:T(8,128)}", 9 * 16 * 128 * 4, HBM),
    ("f32[24]{0:T(128)S(1)}", 128 * 4, FAST),
    ("f32[]{:T(128)}", 128 * 4, HBM),
    ("bf16[300]{0:T(256)(128)(2,1)}", 512 * 2, HBM),
    ("f32[5,7]{1,0}", 35 * 4, HBM),
    ("f32[5,7]", 35 * 4, HBM),
    ("pred[3]", 3, HBM),
    ("s4[3]{0:E(8)}", 3, HBM),
    ("f8e4m3fn[9]{0}", 9, HBM),
    ("u32[]{:S(2)}", 4, 2),
  ],
)
def test_an_array_takes_whole_tiles_where_it_lies(layout, size, space):
  assert program.arrays(layout) == (Array(size, space),)


def test_instructions_are_read_with_operands_attributes_and_results():
  found = program.read(TEXT)
  assert (found.entry, set(found.computations), found.loops) == ("main.3", {"sum", "main.3"}, 0)
  main, added = found.computations["main.3"], found.computations["sum"]
  assert [(each.name, each.kind) for each in main.instructions.values()] == [
    ("x", "parameter"),
    ("zero", "constant"),
    ("pair", "fusion"),
    ("one", "get-tuple-element"),
    ("out", "tuple"),
  ]
  pair = main.instructions["pair"]
  assert pair.result == (Array(512), Array(512))
  assert pair.operands == ("x", "zero")
  assert (pair.called("calls"), pair.called("body"), pair.cycles, pair.trips) == (("sum",), (), 70, None)
  assert main.root.name == "out"
  assert added.parameters[1].name == "b"
  assert [(user.name, place) for user, place in added.users["b"]] == [("add.1", 1)]


def test_what_is_no_program_is_refused():
  for text, message in (
    ("HloModule jit_f\n", "no entry"),
    ("ENTRY %m (x: f32[]) -> f32[] {\n  nonsense\n}\n", "nonsense"),
  ):
    with pytest.raises(ValueError, match=message):
      program.read(text)


def test_a_program_of_this_machine_is_read():
  compiled = (
    jax.jit(lambda x: jax.lax.fori_loop(0, x.shape[0], lambda i, y: y + x[i], 0.0)).lower(jnp.ones(7)).compile()
  )
  found = program.read(compiled.as_text())
  assert found.loops == 1
  assert found.computations[found.entry].root.size == 4
